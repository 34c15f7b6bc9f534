"""Watching a run: progress bar, log, and samples at fixed noise."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

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

from sfumato.core import distributed
from sfumato.core.console import console, say
from sfumato.core.files import atomic_path
from sfumato.core.generative_model import GenerativeModel
from sfumato.core.images import Labels, UInt8Images, to_uint8
from sfumato.core.noise import Noise
from sfumato.core.pictures import image_grid, on_white, rows_each, save_animation
from sfumato.experiment.experiment import Experiment
from sfumato.runs.metrics_log import MetricsLog
from sfumato.speed.plan import computing
from sfumato.training.ema import weights_in_use
from sfumato.training.loggers import Board, open_boards
from sfumato.training.trainer import Trainer
from sfumato.training.training_state import Position, SavedState

COLUMNS = 8
MAX_ROWS = 10


class Monitor:
    """Writes the log and the pictures of a run, and shows its progress.

    Only the main process writes. Samples are drawn there too; by all when the model is sharded.
    """

    def __init__(self, run_dir: Path, experiment: Experiment, trainer: Trainer) -> None:
        self.config = experiment.training
        self.trainer = trainer
        self.run_dir = run_dir
        self.experiment = experiment
        self.samples = run_dir / "samples"
        self._last = (0, 0.0)
        self._rate = ""
        self._log: MetricsLog | None = None
        self._boards: list[Board] = []
        start = trainer.progress()
        self._began, self._start, self._tenths = time.monotonic(), start, int(start * 10)
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
        self._close()

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
        for board in self._boards:
            board.close()

    @property
    def rows(self) -> int:
        """Rows in the log."""
        return self._log.rows if self._log is not None else 0

    @property
    def last_row(self) -> tuple[int, float]:
        """Images and seconds at the last row of losses."""
        return self._last

    def begin_at(self, saved: SavedState) -> None:
        """Take back what was written after a checkpoint: those steps will be done again."""
        self._last = (saved.row_images, saved.row_seconds)
        if not distributed.is_main():
            return
        self._close()
        self.samples.mkdir(exist_ok=True)
        for path in self.samples.glob("*.png"):
            images = int(path.stem)
            finished_there = images == saved.images and not self._due(images)
            if images > saved.images or finished_there:
                path.unlink()
        self._log = MetricsLog(self.run_dir / "metrics.jsonl", saved.rows)
        self._boards = open_boards(self.run_dir, self.experiment, saved.images)

    def _due(self, images: int) -> bool:
        batch = self.config.batch_size
        return images == 0 or crossed(images, batch, self.config.sample_images)

    def write_losses(self, position: Position, means: dict[str, float]) -> None:
        """Log the mean losses since the last row."""
        images, seconds = self._last
        rate = (position.images - images) / max(position.seconds - seconds, 1e-9)
        self._last = (position.images, position.seconds)
        self.write(position, {"images_per_second": round(rate, 2), **means})
        self._rate = f"{rate:,.0f} img/s  " + "  ".join(
            f"{name.removeprefix('loss/')} {value:.4g}"
            for name, value in means.items()
            if name.startswith("loss/")
        )

    def write(self, position: Position, values: dict[str, float]) -> None:
        """Log a row at `position`."""
        row = {
            "images": position.images,
            "step": position.step,
            "seconds": round(position.seconds, 3),
            **values,
        }
        if self._log is not None:
            self._log.write(row)
        for board in self._boards:
            board.write(row)

    def sync(self) -> None:
        """Have the log on the disk."""
        if self._log is not None:
            self._log.sync()

    def show(self, progress: float) -> None:
        """Move the bar; without a terminal, print a line at every tenth of the budget."""
        if console.is_terminal:
            self._progress.update(self._task, completed=min(progress, 1.0), rate=self._rate)
        elif distributed.is_main() and int(progress * 10) > self._tenths:
            self._tenths = int(progress * 10)
            elapsed = time.monotonic() - self._began
            left = elapsed / max(progress - self._start, 1e-9) * (1 - progress)
            name = self.experiment.name
            say(f"{name}: {progress:4.0%}  {self._rate}  ETA {max(left, 0):.0f} s")

    @contextmanager
    def sampling(self) -> Iterator[GenerativeModel]:
        """The model in evaluation mode, with the weights it samples with."""
        model = self.trainer.model
        was_training = model.training
        model.eval()
        with (
            torch.no_grad(),
            weights_in_use(self.trainer.averages),
            computing(self.trainer.device, self.trainer.plan),
        ):
            yield model
        model.train(was_training)

    def sample(self, images: int, look: Callable[[UInt8Images], None]) -> None:
        """Write the picture of samples at position `images`: fixed noise, one class a row.

        `look` is shown the samples.
        """
        if not (distributed.is_main() or self.trainer.sharded):
            return
        with self.sampling() as model:
            labels = preview_labels(model.num_classes)
            samples = to_uint8(model.sample(labels, Noise(range(len(labels))))).cpu()
        if not distributed.is_main():
            return
        look(samples)
        with atomic_path(self.samples / f"{images:012d}.png") as path:
            image_grid(samples.numpy(), COLUMNS).save(path, "PNG")

    def has_picture(self, images: int) -> bool:
        """Whether there is a picture of position `images`."""
        return (self.samples / f"{images:012d}.png").exists()

    def animate(self) -> None:
        """Write the animation of all pictures."""
        paths = sorted(self.samples.glob("*.png"))
        if distributed.is_main() and paths:
            frames = [on_white(Image.open(path)) for path in paths]
            save_animation(frames, self.run_dir / "training.webp", fps=4)


def crossed(images: int, batch: int, interval: int) -> bool:
    """Whether the last `batch` images crossed a multiple of `interval` (0: never)."""
    return interval > 0 and images // interval > (images - batch) // interval


def preview_labels(num_classes: int) -> Labels:
    """The classes of the pictures: a row of 8 for each of the first ten classes, or 4 rows."""
    classes = max(1, min(num_classes, MAX_ROWS))
    return torch.arange(classes).repeat_interleave(rows_each(classes) * COLUMNS)
