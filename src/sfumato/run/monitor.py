"""Watching a run: progress bar, log, samples at fixed noise, and stopping it politely."""

import contextlib
import signal
import time
from pathlib import Path
from types import FrameType, TracebackType

import torch
from PIL import Image
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

from sfumato.core import distributed
from sfumato.core.console import console, say
from sfumato.core.errors import SfumatoError
from sfumato.core.files import atomic_path
from sfumato.core.images import Labels, to_uint8
from sfumato.core.model import GenerativeModel
from sfumato.core.noise import Noise
from sfumato.core.pictures import image_grid, save_animation
from sfumato.run.directory import MetricsLog
from sfumato.run.ema import AveragedWeights, weights_in_use
from sfumato.run.experiment import Experiment
from sfumato.run.position import Position

COLUMNS = 8
MAX_ROWS = 10


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


class Monitor:
    """Writes the log and the pictures of a run, and shows its progress.

    Only the main process writes; sampling for pictures happens there too.
    """

    def __init__(
        self,
        run_dir: Path,
        experiment: Experiment,
        model: nn.Module,
        averages: list[AveragedWeights],
        position: Position,
        progress: float,
    ) -> None:
        assert isinstance(model, GenerativeModel)
        self.config = experiment.training
        self.model = model
        self.averages = averages
        self.run_dir = run_dir
        self.warnings: list[str] = []
        self.samples = run_dir / "samples"
        self.name = experiment.name
        self._sums: dict[str, tuple[Tensor | float, int]] = {}
        self._last = (position.images, position.seconds)
        self._rate = ""
        self._began, self._start, self._tenths = time.monotonic(), progress, int(progress * 10)
        self._log: MetricsLog | None = None
        if distributed.is_main():
            self.samples.mkdir(exist_ok=True)
            for late in self.samples.glob("*.png"):  # pictures of steps that will be done again
                if int(late.stem) > position.images:
                    late.unlink()
            self._log = MetricsLog(run_dir / "metrics.jsonl", position.images)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            disable=not distributed.is_main() or not console.is_terminal,
        )
        self._task = self._progress.add_task(experiment.name, total=1.0, rate="")

    def __enter__(self) -> "Monitor":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self._log is not None:
            self._log.close()

    def after_step(self, position: Position, losses: dict[str, Tensor], progress: float) -> None:
        """Count a step; log and draw samples when their interval is crossed."""
        for name, loss in losses.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + loss, count + 1)
        images, batch = position.images, self.config.batch_size
        if crossed(images, batch, self.config.log_images):
            self._write_row(position)
        if crossed(images, batch, self.config.sample_images):
            self.sample(images)
        self._show(progress)

    def _write_row(self, position: Position) -> None:
        """Log the mean losses since the last row."""
        losses = {f"loss/{name}": float(total / n) for name, (total, n) in self._sums.items()}
        self._sums.clear()
        images, seconds = self._last
        rate = (position.images - images) / max(position.seconds - seconds, 1e-9)
        self._last = (position.images, position.seconds)
        row = {
            "images": position.images,
            "step": position.step,
            "seconds": round(position.seconds, 3),
            "images_per_second": round(rate, 2),
            **losses,
        }
        if self._log is not None:
            self._log.write(row)
        self._rate = f"{rate:,.0f} img/s  " + "  ".join(
            f"{name.removeprefix('loss/')} {value:.4g}" for name, value in losses.items()
        )

    def _show(self, progress: float) -> None:
        """Move the bar; without a terminal, print a line at every tenth of the budget."""
        if console.is_terminal:
            self._progress.update(self._task, completed=min(progress, 1.0), rate=self._rate)
        elif distributed.is_main() and int(progress * 10) > self._tenths:
            self._tenths = int(progress * 10)
            elapsed = time.monotonic() - self._began
            left = elapsed / max(progress - self._start, 1e-9) * (1 - progress)
            say(f"{self.name}: {progress:4.0%}  {self._rate}  ETA {max(left, 0):.0f} s")

    @torch.no_grad()
    def sample(self, images: int) -> None:
        """Write the picture of samples at position `images`: fixed noise, one class a row."""
        if not distributed.is_main() or self.config.sample_images == 0:
            return
        labels = preview_labels(self.model.num_classes)
        was_training = self.model.training
        self.model.eval()
        with weights_in_use(self.averages):
            samples = self.model.sample(labels, Noise(range(len(labels))))
        self.model.train(was_training)
        grid = image_grid(to_uint8(samples).cpu().numpy(), COLUMNS, self._scale())
        with atomic_path(self.samples / f"{images:012d}.png") as path:
            grid.save(path, "PNG")

    def _scale(self) -> int:
        """Enlarge small images, so that the picture can be judged by eye."""
        return max(1, 48 // max(self.model.image_shape[1:]))

    def finish(self, position: Position) -> None:
        """Write the last row and picture, and the animation of all pictures."""
        if self._sums:
            self._write_row(position)
        if not distributed.is_main() or self.config.sample_images == 0:
            return
        if not (self.samples / f"{position.images:012d}.png").exists():
            self.sample(position.images)
        frames = [Image.open(path).convert("RGB") for path in sorted(self.samples.glob("*.png"))]
        save_animation(frames, self.run_dir / "training.webp", fps=4)


def crossed(images: int, batch: int, interval: int) -> bool:
    """Whether the last `batch` images crossed a multiple of `interval` (0: never)."""
    return interval > 0 and images // interval > (images - batch) // interval


def preview_labels(num_classes: int) -> Labels:
    """The classes of the pictures: a row of 8 for each of the first ten classes, or 4 rows."""
    rows = min(num_classes, MAX_ROWS)
    if rows == 0:
        return torch.zeros(4 * COLUMNS, dtype=torch.int64)
    return torch.arange(rows).repeat_interleave(COLUMNS)
