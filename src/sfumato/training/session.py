"""A run in progress: the loop, what happens between its steps, saving, and rolling back."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.core import distributed
from sfumato.core.config import to_mapping
from sfumato.core.errors import TrainingDiverged
from sfumato.core.images import Batch, UInt8Images
from sfumato.core.tensors import write_tensors
from sfumato.data.dataset import Splits
from sfumato.experiment.experiment import Experiment
from sfumato.experiment.online_scores import OnlineScores
from sfumato.metrics.estimate import MetricError
from sfumato.training import checkpoint as checkpoints
from sfumato.training.discriminator_probe import Watch, class_shares
from sfumato.training.doctor import LOWERED, Diverged, Doctor
from sfumato.training.ema import weights_in_use
from sfumato.training.monitor import Monitor, crossed
from sfumato.training.shard import whole
from sfumato.training.snapshots import write_snapshots
from sfumato.training.stop import StopRequest
from sfumato.training.trainer import Trainer
from sfumato.training.trainer_state import restore_tensors, trainer_tensors
from sfumato.training.training_state import Best, Position, SavedState, read_state

DATA_SAMPLE = 256
"""Training images that the doctor compares samples with."""
FEWEST_STEPS = 10
"""Steps before the pace of the data is judged."""


class Session:
    """All that works on one run directory, which the main process has locked."""

    def __init__(
        self,
        run_dir: Path,
        experiment: Experiment,
        trainer: Trainer,
        splits: Splits,
        tell: Callable[[str], None],
    ) -> None:
        self.run_dir = run_dir
        self.config = experiment.training
        self.trainer = trainer
        self.train_set = splits.train
        self.tell = tell
        self.folder = run_dir / "checkpoints"
        some = np.arange(min(DATA_SAMPLE, len(splits.train)))
        self.doctor = Doctor(tell, splits.train.take(some), class_shares(splits.train))
        self.monitor = Monitor(run_dir, experiment, trainer)
        self.quality: OnlineScores | None = None
        if self.config.score_images:
            tell("preparing the evaluation: classifiers and the floor")
            self.quality = OnlineScores(splits, experiment.evaluation)
        self.watch = Watch(splits)
        self.best: Best | None = None
        self._saved_at: int | None = None
        self._waited, self._passed, self._steps_timed = 0.0, 0.0, 0

    def run(self) -> None:
        """Train to the end of the budget and write what a finished run has.

        Raises:
            TrainingDiverged: twice.
            RunError: something cannot be written.
            Interrupted: stopped by Ctrl-C or SIGTERM, after saving.
        """
        with self.monitor, StopRequest() as stop:
            self._begin()
            while True:
                try:
                    stopped = self._train(stop)
                    self._save()
                    break
                except Diverged as trouble:
                    self._roll_back(str(trouble))
            if stopped:
                raise stop.interrupted(self.run_dir)
            self._finish()

    def _begin(self) -> None:
        """From the newest sound checkpoint, or from the start."""
        saved = self._restore()
        if saved is None:
            self.monitor.begin_at(SavedState(images=0, step=0, seconds=0.0))
            self._picture()
            self._save()  # the doctor may have to begin again from here

    def _train(self, stop: StopRequest) -> bool:
        """Step until the budget is used, or until any process is asked to stop: then True."""
        trainer, config = self.trainer, self.config
        share = distributed.local_slice(config.batch_size)
        batches = self.train_set.batches(
            config.batch_size, config.seed, start=trainer.position.images, which=share
        )
        while True:
            asked, seconds = distributed.largest(stop.requested, trainer.position.seconds)
            trainer.position.seconds = seconds
            if trainer.progress() >= 1 or asked:
                return trainer.progress() < 1
            began = time.perf_counter()
            images, labels = next(batches)
            self._waited += time.perf_counter() - began
            batch = trainer.prepare(images, labels)
            trainer.step(batch)
            passed = time.perf_counter() - began
            trainer.position.seconds += passed
            self._passed += passed
            self._steps_timed += 1
            self._after_step(batch)

    def _after_step(self, batch: Batch) -> None:
        config, images = self.config, self.trainer.position.images

        def due(interval: int) -> bool:
            return crossed(images, config.batch_size, interval)

        if due(config.log_images):
            self._log(batch)
        if due(config.sample_images):
            self._picture()
        if due(config.score_images):
            self._score()
        if due(config.snapshot_images):
            write_snapshots(self.run_dir, images, self.trainer.averages)
        if due(config.checkpoint_images):
            self._save()
        self.monitor.show(self.trainer.progress())

    def _log(self, batch: Batch) -> None:
        """Write a row of mean losses, after the doctor has seen it."""
        means = self.trainer.means.means()
        self.doctor.check_losses(means)
        self.doctor.remember(means)
        self.trainer.means.clear()
        self._write(means)
        self.doctor.check_images(batch.images)
        if self._steps_timed >= FEWEST_STEPS:
            self.doctor.check_pace(self._waited, self._passed)
            self._waited, self._passed, self._steps_timed = 0.0, 0.0, 0
        self.doctor.ask(self.trainer.model)

    def _write(self, means: dict[str, float]) -> None:
        """Write a row with what a discriminator says of held-out images."""
        if distributed.is_main() and not self.trainer.sharded:
            means |= self.watch.look(self.trainer.model, self.config.batch_size)
        self.doctor.check_discriminator(means, self.trainer.position)
        self.monitor.write_losses(self.trainer.position, means)

    def _picture(self) -> None:
        if self.config.sample_images:
            self.monitor.sample(self.trainer.position.images, self._look)

    def _look(self, samples: UInt8Images) -> None:
        position = self.trainer.position
        if position.images > 0:
            self.doctor.check_samples(samples, position)
            self.doctor.check_averages(self.trainer.averages, position)

    def _score(self) -> None:
        """Measure the Fréchet distance; keep what has the smallest so far."""
        assert self.quality is not None
        position = self.trainer.position
        with self.monitor.sampling():
            try:
                look = self.quality.look(self.trainer.model)
            except MetricError as error:
                self.doctor.warn(f"no Fréchet distance at {position.images:,} images: {error}")
                return
        self.monitor.write(position, look.row)
        self.doctor.check_classes(look.class_shares, position)
        self.doctor.check_duplicates(look.duplicates, look.real_duplicates, position)
        distance = look.scores["frechet_distance"]
        if self.best is None or distance < self.best.frechet_distance:
            self.best = Best(images=position.images, frechet_distance=distance)
            self._write_weights("best.safetensors")
            self._save()

    def _save(self) -> None:
        """Write a checkpoint, unless there is one of this position. All processes must call this.

        Raises:
            Diverged: the state is not worth keeping.
        """
        trainer, images = self.trainer, self.trainer.position.images
        if self._saved_at == images:
            return
        self.doctor.check_losses(trainer.means.means())
        if not trainer.is_finite():
            raise Diverged("weights are no longer numbers")
        tensors = trainer_tensors(trainer)

        def write() -> None:
            self.monitor.sync()
            state = to_mapping(self._state())
            checkpoint = checkpoints.Checkpoint(tensors, state)
            spare = self.best.images if self.best else None
            keep = self.config.keep_checkpoints
            checkpoints.save_checkpoint(self.folder, images, checkpoint, keep, spare)

        distributed.on_main(write)
        self._saved_at = images

    def _state(self) -> SavedState:
        position, scaler = self.trainer.position, self.trainer.scaler.state_dict()
        row_images, row_seconds = self.monitor.last_row
        return SavedState(
            images=position.images,
            step=position.step,
            seconds=position.seconds,
            rows=self.monitor.rows,
            row_images=row_images,
            row_seconds=row_seconds,
            rate_factor=self.trainer.rate_factor,
            largest_losses=dict(self.doctor.largest_losses),
            warnings=tuple(self.doctor.warnings),
            winning_since=self.doctor.winning_since,
            loss_scale=(scaler["scale"], scaler["_growth_tracker"]) if scaler else None,
            best=self.best,
        )

    def _restore(self) -> SavedState | None:
        """Go back to the newest sound checkpoint; None when there is none at all."""
        loaded: dict[str, Any] = {}

        def load() -> SavedState | None:
            keep, saved = self.config.keep_checkpoints, None
            if checkpoints.list_checkpoints(self.folder):
                checkpoint, warnings = checkpoints.load_newest(self.folder)
                for warning in warnings:
                    self.tell(warning)
                loaded.update(checkpoint.tensors)
                saved = read_state(checkpoint.state, f"the checkpoint in {self.folder}")
            best = saved.best.images if saved and saved.best else None
            checkpoints.tidy(self.folder, saved.images if saved else 0, keep, best)
            return saved

        saved = distributed.on_main(load)
        if saved is None:
            return None
        tensors = distributed.from_main(loaded)
        restore_tensors(self.trainer, tensors, f"the checkpoint in {self.folder}")
        self._apply(saved)
        return saved

    def _apply(self, saved: SavedState) -> None:
        trainer, doctor = self.trainer, self.doctor
        trainer.position = Position(saved.images, saved.step, saved.seconds)
        trainer.rate_factor = saved.rate_factor
        if saved.loss_scale is not None and trainer.scaler.is_enabled():
            scale, tracker = saved.loss_scale
            recorded = {"scale": scale, "_growth_tracker": tracker}
            trainer.scaler.load_state_dict(trainer.scaler.state_dict() | recorded)
        doctor.largest_losses = dict(saved.largest_losses)
        doctor.warnings = list(saved.warnings)
        doctor.winning_since = saved.winning_since
        self.best = saved.best
        self._saved_at = saved.images
        self.monitor.begin_at(saved)

    def _roll_back(self, trouble: str) -> None:
        """Go back to the last good checkpoint and on with a lower rate, once.

        Nothing is saved at once: a run that is killed before its next checkpoint diverges again in
        the same way, and comes here again.
        Raises:
            TrainingDiverged: it has been done before.
        """
        images, factor = self.trainer.position.images, self.trainer.rate_factor
        if factor < 1:
            raise TrainingDiverged(
                f"training diverged again at {images:,} images: {trouble}, although the learning "
                f"rate had been lowered to {factor:g} of {self.config.learning_rate:g}; start a "
                "new run with a smaller training.learning_rate, a longer training.warmup_images, "
                f"or a smaller training.clip_gradient. The last good state is in {self.folder}"
            )
        saved = self._restore()
        assert saved is not None, "the first checkpoint is written before the first step"
        self.trainer.rate_factor = LOWERED
        self.doctor.warn(
            f"training diverged at {images:,} images: {trouble}; went back to {saved.images:,} "
            f"images and on with {LOWERED:g} times the learning rate"
        )

    def _write_weights(self, name: str) -> None:
        """Write the weights that samples are drawn with."""
        with weights_in_use(self.trainer.averages):
            tensors = whole(self.trainer.model.state_dict())
            distributed.on_main(lambda: write_tensors(self.run_dir / name, tensors))

    def _finish(self) -> None:
        """The last row and picture, the animation, the final weights."""
        position = self.trainer.position
        means = self.trainer.means.means()
        if means:
            self._write(means)
        if not distributed.on_main(lambda: self.monitor.has_picture(position.images)):
            self._picture()
        self.monitor.animate()
        self._write_weights("final.safetensors")
