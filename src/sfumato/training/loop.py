"""The training loop: steps until the budget is used, and hooks between them."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.core import distributed
from sfumato.core.distributed import StopRequest
from sfumato.core.errors import TrainingDiverged
from sfumato.core.generative_model import GenerativeModel
from sfumato.data.dataset import Splits
from sfumato.training.checkpoint import Saving
from sfumato.training.doctor import LOWERED, DiscriminatorProbe, Diverged, Doctor, class_shares
from sfumato.training.hooks import (
    Hook,
    LogLosses,
    ProgressBar,
    SamplePictures,
    SampleScores,
    Scoring,
    Snapshots,
    is_crossed,
)
from sfumato.training.loggers import RunLog
from sfumato.training.trainer import Trainer

DATA_SAMPLE = 256
"""Training images that the doctor compares samples with."""


class TrainingLoop:
    """Trains in a run directory, which the main process has locked.

    Args:
        run_dir: the run directory.
        record: the resolved config of the run, as plain values.
        trainer: the model and its optimizers.
        splits: training images, and held-out ones to watch a discriminator with.
        score: scores the model where the config asks for it (`training.score_images`).
        log: receives messages for the user.
    """

    def __init__(
        self,
        run_dir: Path,
        record: Mapping[str, Any],
        trainer: Trainer,
        splits: Splits,
        score: Callable[[GenerativeModel], SampleScores] | None,
        log: Callable[[str], None],
    ) -> None:
        config = trainer.config
        self._run_dir, self._trainer, self._train_set = run_dir, trainer, splits.train
        some = splits.train.take(np.arange(min(DATA_SAMPLE, len(splits.train))))
        self._doctor = Doctor(
            trainer.state, log, some, class_shares(splits.train), config.log_images
        )
        self.run_log = RunLog(run_dir, config, record)
        self._saving = Saving(config.checkpoint_images, run_dir, self._doctor, self.run_log, log)
        self._losses = LogLosses(
            config.log_images, self.run_log, self._doctor, DiscriminatorProbe(splits)
        )
        self._pictures = SamplePictures(config.sample_images, run_dir, self._doctor)
        self._progress = ProgressBar(record["name"], trainer, self.run_log)
        self.hooks: list[Hook] = [self._losses, self._doctor, self._pictures]
        if score is not None:
            scored = Scoring(config.score_images, score, self.run_log, self._doctor, self._saving)
            self.hooks.append(scored)
        self.hooks += [
            Snapshots(config.snapshot_images, run_dir),
            self._saving,
            self._progress,
        ]

    def run(self) -> None:
        """Train to the end of the budget and write what a finished run has.

        Raises:
            TrainingDiverged: twice.
            RunError: something cannot be written.
            Interrupted: stopped by Ctrl-C or SIGTERM, after saving.
        """
        trainer = self._trainer
        with self._progress.bar, self.run_log, StopRequest() as stop:
            self._begin()
            while True:
                try:
                    stopped = self.train(stop)
                    self._saving(trainer)
                    break
                except Diverged as trouble:
                    self._roll_back(str(trouble))
            if stopped:
                raise stop.interrupted(self._run_dir)
            self._losses.finish(trainer)
            self._pictures.finish(trainer)
            self._saving.write_weights(trainer, "final.safetensors")

    def _begin(self) -> None:
        """From the newest sound checkpoint, or from the start."""
        if not self._go_back():
            self._rewind()
            self._pictures(self._trainer)
            self._saving(self._trainer)  # the doctor may have to begin again from here

    def _go_back(self) -> bool:
        """Restore the newest sound checkpoint; False when there is none at all."""
        restored = self._saving.restore(self._trainer)
        if restored:
            self._rewind()
        return restored

    def _rewind(self) -> None:
        """Take back what was written after the current state: those steps will be done again."""
        self._pictures.rewind(self._trainer)
        self.run_log.rewind(self._trainer.state)

    def train(self, stop: StopRequest) -> bool:
        """Step until the budget is used, or until any process is asked to stop: then True."""
        trainer, config, train_set = self._trainer, self._trainer.config, self._train_set
        share = distributed.local_slice(config.batch_size)
        batches = train_set.batches(
            config.batch_size, config.seed, start=trainer.state.images, which=share
        )
        while True:
            asked, seconds = distributed.largest(stop.requested, trainer.state.seconds)
            trainer.state.seconds = seconds
            if trainer.progress() >= 1 or asked:
                return trainer.progress() < 1
            began = time.perf_counter()
            images, labels = next(batches)
            waited = time.perf_counter() - began
            trainer.step(trainer.prepare(images, labels))
            passed = time.perf_counter() - began
            trainer.state.seconds += passed
            trainer.pace.add(waited, passed)
            for hook in self.hooks:
                if is_crossed(trainer.state.images, config.batch_size, hook.every):
                    hook(trainer)

    def _roll_back(self, trouble: str) -> None:
        """Go back to the last good checkpoint and on with a lower rate, once.

        Nothing is saved at once: a run that is killed before its next checkpoint diverges again in
        the same way, and comes here again.
        Raises:
            TrainingDiverged: it has been done before.
        """
        state = self._trainer.state
        images, factor = state.images, state.rate_factor
        if factor < 1:
            raise TrainingDiverged(
                f"training diverged again at {images:,} images: {trouble}, although the learning "
                f"rate had been lowered to {factor:g} of {self._trainer.config.learning_rate:g}; "
                "start a new run with a smaller training.learning_rate, a longer "
                "training.warmup_images, or a smaller training.clip_gradient. The last good state "
                f"is in {self._saving.folder}"
            )
        restored = self._go_back()
        assert restored, "the first checkpoint is written before the first step"
        state.rate_factor = LOWERED
        self._doctor.warn(
            f"training diverged at {images:,} images: {trouble}; went back to {state.images:,} "
            f"images and on with {LOWERED:g} times the learning rate"
        )
