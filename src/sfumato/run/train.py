"""The trainer: one loop over the phases of any generative model.

Everything random in a step (noise, times, dropout, data order) is a function of the seed and of
the step's number, never of the process's history. That is what makes a resumed run equal to one
that was never interrupted, bit for bit on the CPU.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.augment.geometric import Augmentation
from sfumato.core import distributed
from sfumato.core.config import to_mapping
from sfumato.core.device import autocast, default_device
from sfumato.core.errors import RunError
from sfumato.core.files import write_json
from sfumato.core.images import Batch, Labels, UInt8Images, from_uint8
from sfumato.core.model import GenerativeModel, Phase
from sfumato.core.noise import TrainingNoise, derive_seed
from sfumato.data.catalogue import load
from sfumato.data.dataset import Dataset
from sfumato.run import directory as run_directory
from sfumato.run.checkpoint import (
    Checkpoint,
    load_into,
    load_newest,
    save_checkpoint,
    write_tensors,
)
from sfumato.run.ema import AveragedWeights, weights_in_use
from sfumato.run.experiment import Experiment, TrainingConfig
from sfumato.run.monitor import Monitor, StopRequest, crossed
from sfumato.run.position import Position


@dataclass(frozen=True)
class Run:
    """A finished run: where it is and what it took."""

    directory: Path
    summary: dict[str, Any]


@dataclass
class Trainer:
    """A model, its optimizers and weight averages, and the position reached."""

    config: TrainingConfig
    model: nn.Module
    device: torch.device
    augment: Augmentation = Augmentation()
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        assert isinstance(self.model, GenerativeModel)
        self.phases: Sequence[Phase] = self.model.phases()
        self.model.to(self.device).train()
        self.optimizers: dict[nn.Module, torch.optim.Optimizer] = {}
        for phase in self.phases:  # phases of one module share its optimizer
            if phase.module not in self.optimizers:
                self.optimizers[phase.module] = self.config.optimizer.build(
                    phase.module.parameters(), self.config.learning_rate
                )
        sampled = self.model.sampled_module
        self.averages = [AveragedWeights(sampled, profile) for profile in self.config.averages]

    def prepare(self, images: UInt8Images, labels: Labels | None) -> Batch:
        """This process's images on the device, augmented, in [-1, 1]."""
        config = self.config
        noise = TrainingNoise(
            config.seed,
            self.position.step,
            "augment",
            global_batch=config.batch_size,
            which=distributed.local_slice(config.batch_size),
        )
        images = self.augment(images.to(self.device), noise)
        return Batch(from_uint8(images), None if labels is None else labels.to(self.device))

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One iteration over the phases. Returns the mean loss of each, without waiting for it.

        `batch` is this process's share of the global batch.
        """
        position, size = self.position, self.config.batch_size
        torch.manual_seed(derive_seed(self.config.seed, position.step, distributed.rank()))
        self._set_learning_rate()
        losses = {
            phase.name: self._run_phase(phase, batch)
            for phase in self.phases
            if position.step % phase.every == 0
        }
        position.step += 1
        position.images += size
        for average in self.averages:
            average.update(position.images, size)
        return losses

    def _run_phase(self, phase: Phase, batch: Batch) -> Tensor:
        if len(self.phases) > 1:
            self.model.requires_grad_(False)
            phase.module.requires_grad_(True)
        optimizer = self.optimizers[phase.module]
        optimizer.zero_grad(set_to_none=True)
        share = distributed.local_slice(self.config.batch_size)
        size = self.config.micro_batch_size or len(batch)
        total = torch.zeros((), device=self.device)
        for start in range(0, len(batch), size):
            end = min(start + size, len(batch))
            noise = TrainingNoise(
                self.config.seed,
                self.position.step,
                phase.name,
                global_batch=self.config.batch_size,
                which=slice(share.start + start, share.start + end),
            )
            with autocast(self.device, self.config.precision):
                losses = phase.loss(batch.part(slice(start, end)), noise)
            mean = losses.float().sum() / self.config.batch_size
            (mean * phase.every).backward()  # type: ignore[no-untyped-call]
            total += mean.detach()
        distributed.sum_gradients(phase.module.parameters())
        if self.config.clip_gradient is not None:
            nn.utils.clip_grad_norm_(phase.module.parameters(), self.config.clip_gradient)
        optimizer.step()
        return total

    def _set_learning_rate(self) -> None:
        config, images = self.config, self.position.images
        if config.decay_images is not None:
            factor = config.rate.factor(images, config.decay_images)
        else:  # a budget in seconds
            factor = config.rate.factor(self.position.seconds, config.budget_seconds or 1.0)
        if config.warmup_images:
            factor *= min(1.0, (images + config.batch_size) / config.warmup_images)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor

    def progress(self) -> float:
        """The part of the budget that is used, 0 to 1."""
        config, position = self.config, self.position
        if config.budget_images is not None:
            return position.images / config.budget_images
        if config.budget_steps is not None:
            return position.step / config.budget_steps
        assert config.budget_seconds is not None
        return position.seconds / config.budget_seconds

    def checkpoint(self) -> Checkpoint:
        """The whole state: weights, optimizers, averages, position."""
        tensors = {f"model/{name}": t for name, t in self.model.state_dict().items()}
        for number, average in enumerate(self.averages):
            tensors |= {f"average/{number}/{name}": t for name, t in average.tensors.items()}
        for number, optimizer in enumerate(self.optimizers.values()):
            for parameter, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    if value is not None:
                        name = f"optimizer/{number}/{parameter}/{key}"
                        tensors[name] = torch.as_tensor(value)
        position = self.position
        state = {"images": position.images, "step": position.step, "seconds": position.seconds}
        return Checkpoint(tensors, state)

    def restore(self, checkpoint: Checkpoint, source: str) -> None:
        """Continue from a checkpoint of the same configuration.

        Raises:
            RunError: it is of another configuration.
        """
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.tensors.items():
            group, _, key = name.partition("/")
            if group != "model":
                which, _, key = key.partition("/")
                group = f"{group}/{which}"
            groups.setdefault(group, {})[key] = tensor
        load_into(self.model, groups.get("model", {}), source)
        for number, average in enumerate(self.averages):
            average.load(groups.get(f"average/{number}", {}), source)
        for number, optimizer in enumerate(self.optimizers.values()):
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in groups.get(f"optimizer/{number}", {}).items():
                index, _, key = name.partition("/")
                state.setdefault(int(index), {})[key] = tensor
            param_groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": param_groups})
        saved = checkpoint.state
        self.position = Position(saved["images"], saved["step"], saved["seconds"])


def build_model(experiment: Experiment, dataset: Dataset) -> nn.Module:
    """The untrained model for a data set; its initialization depends on `training.seed` alone."""
    num_classes = dataset.num_classes if experiment.conditional else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(experiment.training.seed, "initialization"))
        return experiment.model.build(dataset.image_shape, num_classes)


def _with_recorded_decay(experiment: Experiment, run_dir: Path) -> Experiment:
    """The experiment with the length of the decay that the run began with, unless it gives one."""
    if experiment.training.decay_images is not None:
        return experiment
    recorded = run_directory.read_experiment(run_dir).training.decay_images
    return replace(experiment, training=replace(experiment.training, decay_images=recorded))


def with_decay_fixed(experiment: Experiment) -> Experiment:
    """The experiment with the length of the learning-rate decay fixed to its first budget."""
    config = experiment.training
    if config.decay_images is not None:
        return experiment
    if config.budget_images is not None:
        decay = config.budget_images
    elif config.budget_steps is not None:
        decay = config.budget_steps * config.batch_size
    else:
        return experiment
    return replace(experiment, training=replace(config, decay_images=decay))


def train(
    experiment: Experiment,
    run_dir: Path,
    *,
    resume: bool = False,
    force: bool = False,
    tell: Callable[[str], None] = print,
) -> Run:
    """Train a model and write its run directory.

    Args:
        experiment: what to train, on what, for how long.
        run_dir: must not exist yet, or hold an interrupted run when `resume` is true.
        resume: continue from the newest sound checkpoint (or from the start if there is none).
        force: resume in spite of a changed config.
        tell: receives messages for the user.
    Raises:
        RunError: the directory exists, is in use, or holds a run of another config.
        Interrupted: stopped by Ctrl-C or SIGTERM, after saving a checkpoint.
    """
    resuming = resume and (run_dir / "config.json").exists()
    if resuming:
        run_directory.check_same_experiment(run_dir, experiment, force)
        experiment = _with_recorded_decay(experiment, run_dir)
    elif resume and run_dir.exists() and any(run_dir.iterdir()):
        raise RunError(f"{run_dir} is not a run directory: it has no config.json; check the path")
    experiment = with_decay_fixed(experiment)
    splits = load(experiment.data)
    device = default_device()
    trainer = Trainer(
        experiment.training, build_model(experiment, splits.train), device, experiment.data.augment
    )
    if not resuming:
        run_directory.create(run_dir, experiment)
    with run_directory.locked(run_dir):
        return _train_in(run_dir, experiment, trainer, splits.train, tell)


def _train_in(
    run_dir: Path,
    experiment: Experiment,
    trainer: Trainer,
    dataset: Dataset,
    tell: Callable[[str], None],
) -> Run:
    checkpoints = run_dir / "checkpoints"
    if checkpoints.is_dir() and any(checkpoints.glob("*.json")):
        checkpoint, warnings = load_newest(checkpoints)
        for warning in warnings:
            tell(warning)
        trainer.restore(checkpoint, f"the checkpoint in {checkpoints}")
    write_json(run_dir / "config.json", to_mapping(experiment))
    write_json(run_dir / "data.json", run_directory.describe(dataset))
    config = experiment.training
    monitor = Monitor(
        run_dir,
        experiment,
        trainer.model,
        trainer.averages,
        trainer.position,
        trainer.progress(),
    )

    def save() -> None:
        position = trainer.position.images
        save_checkpoint(checkpoints, position, trainer.checkpoint(), config.keep_checkpoints)

    share = distributed.local_slice(config.batch_size)
    batches = dataset.batches(
        config.batch_size, config.seed, start=trainer.position.images, which=share
    )
    with monitor, StopRequest() as stop:
        if trainer.position.images == 0:
            monitor.sample(0)
        while trainer.progress() < 1 and not stop.requested:
            began = time.perf_counter()
            images, labels = next(batches)
            losses = trainer.step(trainer.prepare(images, labels))
            trainer.position.seconds += time.perf_counter() - began
            monitor.after_step(trainer.position, losses, trainer.progress())
            if crossed(trainer.position.images, config.batch_size, config.checkpoint_images):
                save()
        save()
        if stop.requested and trainer.progress() < 1:
            raise stop.interrupted(run_dir)
        return Run(run_dir, _finish(run_dir, trainer, monitor))


def _finish(run_dir: Path, trainer: Trainer, monitor: Monitor) -> dict[str, Any]:
    monitor.finish(trainer.position)
    with weights_in_use(trainer.averages):
        write_tensors(run_dir / "final.safetensors", trainer.model.state_dict())
    position = trainer.position
    model = trainer.model
    assert isinstance(model, GenerativeModel)
    summary = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "sampled_parameters": sum(p.numel() for p in model.sampled_module.parameters()),
        "nfe": model.nfe,
        "images_seen": position.images,
        "steps": position.step,
        "train_seconds": position.seconds,
        "images_per_second": position.images / max(position.seconds, 1e-9),
        "processes": distributed.world_size(),
        "warnings": monitor.warnings,
    }
    write_json(run_dir / "summary.json", summary)
    return summary
