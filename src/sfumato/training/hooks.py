"""What happens between training steps: rows of the log, pictures, scores, snapshots, saving.

A hook is an action with an interval. The loop calls those that are due in the order of its list.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

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
from sfumato.core.images import Labels, to_uint8
from sfumato.core.noise import Noise
from sfumato.core.pictures import image_grid, on_white, rows_each, save_animation
from sfumato.metrics.estimate import MetricError
from sfumato.speed.plan import eagerly
from sfumato.training.averages import write_snapshots
from sfumato.training.checkpoint import Saving
from sfumato.training.doctor import DiscriminatorProbe, Doctor
from sfumato.training.loggers import RunLog
from sfumato.training.trainer import Trainer
from sfumato.training.training_state import Best

COLUMNS = 8
MAX_ROWS = 10


@runtime_checkable
class Hook(Protocol):
    """Something done between training steps. In a process group every process calls it."""

    every: int
    """Images between two calls; 0: never."""

    def __call__(self, trainer: Trainer) -> None:
        """Act on the trainer and its state."""
        ...


class LogLosses:
    """Writes a row of mean losses, and of what a discriminator says of held-out images."""

    def __init__(self, every: int, log: RunLog, doctor: Doctor, probe: DiscriminatorProbe) -> None:
        self.every = every
        self._log, self._doctor, self._probe = log, doctor, probe

    def __call__(self, trainer: Trainer) -> None:
        """Write a row, after the doctor has seen the losses.

        Raises:
            Diverged: a loss is not a number, or has exploded.
        """
        means = trainer.means.means()
        self._doctor.check_losses(means)
        self._doctor.remember(means)
        trainer.means.clear()
        self._write(trainer, means)

    def finish(self, trainer: Trainer) -> None:
        """Write the losses since the last row, if there are any."""
        means = trainer.means.means()
        if means:
            self._write(trainer, means)

    def _write(self, trainer: Trainer, means: dict[str, float]) -> None:
        if distributed.is_main() and not trainer.sharded:
            with eagerly(trainer.plan.compile):
                means |= self._probe.look(trainer.model, trainer.config.batch_size)
        self._doctor.check_discriminator(means)
        self._log.write_losses(trainer.state, means)


class SamplePictures:
    """Writes pictures of samples at fixed noise, one class per row, named by images seen.

    Samples are drawn in the main process; by all when the model is sharded.
    """

    def __init__(self, every: int, run_dir: Path, doctor: Doctor) -> None:
        self.every = every
        self._folder, self._doctor = run_dir / "samples", doctor
        self._animation = run_dir / "training.webp"

    def __call__(self, trainer: Trainer) -> None:
        """Draw, show the samples to the doctor, write the picture."""
        if not self.every or not (distributed.is_main() or trainer.sharded):
            return
        with trainer.sampling() as model:
            labels = preview_labels(model.num_classes)
            samples = to_uint8(model.sample(labels, Noise(range(len(labels))))).cpu()
        if not distributed.is_main():
            return
        if trainer.state.images > 0:
            self._doctor.check_samples(samples)
            self._doctor.check_averages(trainer.averages)
        with atomic_path(self._path(trainer)) as path:
            image_grid(samples.numpy(), COLUMNS).save(path, "PNG")

    def rewind(self, trainer: Trainer) -> None:
        """Delete the pictures of steps that will be done again."""
        if not distributed.is_main():
            return
        now, batch = trainer.state.images, trainer.config.batch_size
        self._folder.mkdir(exist_ok=True)
        for path in self._folder.glob("*.png"):
            images = int(path.stem)
            is_due = images == 0 or is_crossed(images, batch, self.every)
            if images > now or (images == now and not is_due):  # a run that had finished there
                path.unlink()

    def finish(self, trainer: Trainer) -> None:
        """The last picture, and the animation of all."""
        if not distributed.on_main(lambda: self._path(trainer).exists()):
            self(trainer)
        paths = sorted(self._folder.glob("*.png"))
        if distributed.is_main() and paths:
            frames = [on_white(Image.open(path)) for path in paths]
            save_animation(frames, self._animation, fps=4)

    def _path(self, trainer: Trainer) -> Path:
        return self._folder / f"{trainer.state.images:012d}.png"


@runtime_checkable
class SampleScores(Protocol):
    """The scores of samples of a model in training, as the scorer that is handed in returns them.

    `duplicates` and `real_duplicates` are the shares of samples, and of as many held-out images,
    that have a twin among the others.
    """

    @property
    def scores(self) -> Mapping[str, float]:
        """`frechet_distance` and others."""
        ...

    @property
    def class_shares(self) -> Mapping[str, float]:
        """The share of samples that look like each class; empty without classes."""
        ...

    @property
    def duplicates(self) -> float: ...

    @property
    def real_duplicates(self) -> float: ...

    @property
    def row(self) -> dict[str, float]:
        """All of it for the log."""
        ...


class Scoring:
    """Measures the Fréchet distance, and keeps the weights and checkpoint of the smallest.

    Args:
        score: scores a model in evaluation mode that holds the weights to sample with; the same in
            all processes.
    """

    def __init__(
        self,
        every: int,
        score: Callable[[GenerativeModel], SampleScores],
        log: RunLog,
        doctor: Doctor,
        saving: Saving,
    ) -> None:
        self.every = every
        self._score, self._log, self._doctor, self._saving = score, log, doctor, saving

    def __call__(self, trainer: Trainer) -> None:
        """Score, write a row, and save if it is the best so far."""
        state = trainer.state
        with trainer.sampling():
            try:
                found = self._score(trainer.model)
            except MetricError as error:
                self._doctor.warn(f"no Fréchet distance at {state.images:,} images: {error}")
                return
        self._log.write(state, found.row)
        self._doctor.check_classes(found.class_shares)
        self._doctor.check_duplicates(found.duplicates, found.real_duplicates)
        distance = found.scores["frechet_distance"]
        if state.best is None or distance < state.best.frechet_distance:
            state.best = Best(images=state.images, frechet_distance=distance)
            self._saving.write_weights(trainer, "best.safetensors")
            self._saving(trainer)


class Snapshots:
    """Stores the power averages, from which averages of other widths can be reconstructed."""

    def __init__(self, every: int, run_dir: Path) -> None:
        self.every = every
        self._run_dir = run_dir

    def __call__(self, trainer: Trainer) -> None:
        """Write a file for each power average."""
        write_snapshots(self._run_dir, trainer.state.images, trainer.averages)


class ProgressBar:
    """Shows progress; without a terminal, prints a line at every tenth of the budget."""

    every = 1

    def __init__(self, name: str, trainer: Trainer, log: RunLog) -> None:
        self._name, self._log = name, log
        self._began, self._start = time.monotonic(), trainer.progress()
        self._tenths = int(self._start * 10)
        self.bar = Progress(
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
        self._task = self.bar.add_task(name, total=1.0, rate="")

    def __call__(self, trainer: Trainer) -> None:
        """Move the bar, or print a line."""
        progress, rate = trainer.progress(), self._log.last_losses
        if console.is_terminal:
            self.bar.update(self._task, completed=min(progress, 1.0), rate=rate)
        elif distributed.is_main() and int(progress * 10) > self._tenths:
            self._tenths = int(progress * 10)
            elapsed = time.monotonic() - self._began
            left = elapsed / max(progress - self._start, 1e-9) * (1 - progress)
            say(f"{self._name}: {min(progress, 1):4.0%}  {rate}  ETA {max(left, 0):.0f} s")


def is_crossed(images: int, batch: int, interval: int) -> bool:
    """Whether the last `batch` images crossed a multiple of `interval` (0: never)."""
    return interval > 0 and images // interval > (images - batch) // interval


def preview_labels(num_classes: int) -> Labels:
    """The classes of the pictures: a row of 8 for each of the first ten classes, or 4 rows."""
    classes = max(1, min(num_classes, MAX_ROWS))
    return torch.arange(classes).repeat_interleave(rows_each(classes) * COLUMNS)
