"""Stopping a run politely."""

import contextlib
import signal
from pathlib import Path
from types import FrameType, TracebackType

from sfumato.core.errors import SfumatoError


class Interrupted(SfumatoError):
    """The user or the cluster's scheduler stopped the run; it was saved and can be resumed."""


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a request; a second one ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, signal.Handlers | None] = {}

    def __enter__(self) -> "StopRequest":
        with contextlib.suppress(ValueError):  # not the main thread: signals stay as they are
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)  # type: ignore[assignment]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def interrupted(self, run_dir: Path) -> Interrupted:
        """The exception that says how to go on."""
        return Interrupted(
            f"stopped; everything is saved in {run_dir}. To go on, repeat the command with --resume"
        )
