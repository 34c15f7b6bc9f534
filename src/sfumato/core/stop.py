"""Stopping a run: the first signal lets it save, a second one ends it at once."""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

from sfumato.core import distributed
from sfumato.core.errors import SfumatoError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 1.0
"""In a process group a second signal this soon is the first one, passed on by the launcher: a
scheduler or a terminal may send it to both launcher and processes."""
SHOW_CURSOR = b"\x1b[?25h"
LEAVING = b"sfumato: stopped at once; the last checkpoint is complete, continue with --resume\n"


class Interrupted(SfumatoError):
    """The user or the cluster's scheduler stopped the run; it was saved and can be resumed."""


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a request; a second one ends the process at once.

    Python runs signal handlers between its own instructions, so a process inside a long backward
    pass would not notice the second one. A thread does: the interpreter writes the number of every
    signal into a pipe the moment it arrives.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, signal.Handlers | None] = {}
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # signals stay as they are
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)  # type: ignore[assignment]
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._previous_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._listener = threading.Thread(target=self._listen, args=(self._pipe[0],), daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pipe is None:
            return
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._pipe[1])  # which ends the listener
        self._listener.join()
        os.close(self._pipe[0])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def _listen(self, pipe: int) -> None:
        asked_at: float | None = None
        while arrived := os.read(pipe, 1):
            if arrived[0] not in SIGNALS:
                continue
            now = time.monotonic()
            if asked_at is None:
                asked_at = now
            elif distributed.world_size() == 1 or now - asked_at > ECHO_SECONDS:
                _leave(arrived[0])

    def interrupted(self, run_dir: Path) -> Interrupted:
        """The exception to raise; its message explains how to continue."""
        return Interrupted(
            f"stopped; everything is saved in {run_dir}. To go on, repeat the command with --resume"
        )


def _leave(number: int) -> None:
    """End the process now. A file that was being written stays, incomplete, beside the others."""
    if os.isatty(2):
        os.write(2, SHOW_CURSOR + b"\n")
    if distributed.is_main():
        os.write(2, LEAVING)
    os._exit(128 + number)
