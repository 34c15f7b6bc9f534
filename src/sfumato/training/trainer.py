"""One training step of any generative model, with all that it needs and changes.

Everything random in a step (noise, times, dropout, data order) is a function of the seed and of
the step's number, never of the process's history. That is what makes a resumed run equal to one
that was never interrupted, bit for bit on the CPU.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.augment.geometric import Augmentation
from sfumato.core import distributed
from sfumato.core.errors import ConfigError
from sfumato.core.generative_model import (
    GenerativeModel,
    Observing,
    Phase,
    blocks_of,
    recompute_activations,
)
from sfumato.core.images import Batch, Labels, UInt8Images, from_uint8
from sfumato.core.noise import TrainingNoise, derive_seed
from sfumato.speed.plan import apply_plan, compile_networks, computing, eagerly, tf32
from sfumato.training.averages import AveragedWeights, weights_in_use
from sfumato.training.training_config import TrainingConfig, plan_of
from sfumato.training.training_state import LossMeans, TrainingState, initial_state


@dataclass
class Pace:
    """Seconds of some steps, and those of them spent waiting for images."""

    waited: float = 0.0
    passed: float = 0.0
    steps: int = 0

    def add(self, waited: float, passed: float) -> None:
        """Count a step."""
        self.waited += waited
        self.passed += passed
        self.steps += 1


@dataclass
class Trainer:
    """A model, its optimizers and weight averages, and the state of training.

    `means` are the losses since the last row of the log, `batch` is the last batch, `pace` the time
    of the steps since the doctor last judged it.

    Raises:
        ConfigError: a batch size that the processes cannot share, or a model that cannot be
            sharded as asked.
    """

    config: TrainingConfig
    model: GenerativeModel
    device: torch.device
    augment: Augmentation = Augmentation()
    state: TrainingState = field(default_factory=initial_state)

    def __post_init__(self) -> None:
        config = self.config
        if config.batch_size % distributed.world_size():
            raise ConfigError(
                f"training.batch_size {config.batch_size} cannot be shared equally by "
                f"{distributed.world_size()} processes; make it a multiple"
            )
        self.plan = plan_of(config)
        self.model.to(self.device).train()
        apply_plan(self.model, self.plan)
        if config.recompute_activations:
            recompute_activations(self.model)
        if config.shard:
            self._shard()
        self.sharded = distributed.is_sharded(self.model)
        self.phases: Sequence[Phase] = self.model.phases()
        self.optimizers: dict[nn.Module, torch.optim.Optimizer] = {}
        for phase in self.phases:  # phases of one module share its optimizer
            if phase.module not in self.optimizers:
                self.optimizers[phase.module] = config.optimizer.build(
                    phase.module, config.learning_rate, fast=self.plan.is_fast
                )
        # Finding the parameters in a module takes time that every step would pay.
        self._parameters = {module: list(module.parameters()) for module in self.optimizers}
        if self.plan.compile:
            compile_networks(self.phases)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.plan.precision == "float16"
        )
        sampled = self.model.sampled_module
        self.averages = [AveragedWeights(sampled, profile) for profile in config.averages]
        self.means = LossMeans(self.device)
        self.pace = Pace()
        self.batch: Batch | None = None

    def _shard(self) -> None:
        """Spread the model over the processes; its blocks are gathered one after the other."""
        phases = self.model.phases()
        if distributed.world_size() > 1 and len(phases) > 1:
            raise ConfigError(
                "training.shard is for diffusion models; this one trains its networks in "
                f"{len(phases)} phases: leave training.shard out"
            )
        # The children of the module: the module itself may be entered by other methods.
        for network in phases[0].module.children():
            if any(True for _ in network.parameters()):
                distributed.shard([*blocks_of(network), network], self.device)

    def prepare(self, images: UInt8Images, labels: Labels | None) -> Batch:
        """This process's images on the device, augmented, in [-1, 1]."""
        noise = self._noise("augment", distributed.local_slice(self.config.batch_size))
        images = self.augment(images.to(self.device), noise)
        labels = None if labels is None else labels.to(self.device)
        return Batch(from_uint8(images), labels, self.state.images)

    def step(self, batch: Batch) -> None:
        """One iteration over the phases, without waiting for the device.

        `batch` is this process's share of the global batch. The losses go into `means`.
        """
        state, size = self.state, self.config.batch_size
        self.batch = batch
        self._seed_dropout()
        self._set_learning_rate()
        with tf32(self.plan.is_fast):  # also what follows the forward pass
            for phase in self.phases:
                if state.step % phase.every == 0:
                    self._run_phase(phase, batch)
        state.step += 1
        state.images += size
        for average in self.averages:
            average.update(state.images, size)

    def _seed_dropout(self) -> None:
        """Make what layers draw for themselves a function of the step and the process."""
        seed = derive_seed(self.config.seed, self.state.step, distributed.rank())
        torch.default_generator.manual_seed(seed)  # torch.manual_seed is slow: it asks every GPU
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _run_phase(self, phase: Phase, batch: Batch) -> None:
        if len(self.phases) > 1:
            self.model.requires_grad_(False)
            phase.module.requires_grad_(True)
        optimizer, config = self.optimizers[phase.module], self.config
        optimizer.zero_grad(set_to_none=True)
        for part, noise in self._micro_batches(batch, phase.name):
            is_eager = self.plan.compile and phase.double_backward
            with computing(self.device, self.plan), eagerly(is_eager):
                losses = self._losses(phase, part, noise)
            mean = losses.float().sum() / config.batch_size * (phase.every if phase.lazy else 1)
            if self.sharded:  # its gradients are averaged over the processes, not summed
                mean = mean * distributed.world_size()
            self.scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
        parameters = self._parameters[phase.module]
        distributed.sum_gradients(parameters)
        self.scaler.unscale_(optimizer)
        if config.clip_gradient is not None:
            nn.utils.clip_grad_norm_(parameters, config.clip_gradient)
        self.scaler.step(optimizer)
        self.scaler.update()
        if phase.after is not None:
            phase.after()

    def _micro_batches(self, batch: Batch, phase: str) -> Iterator[tuple[Batch, TrainingNoise]]:
        """The parts of this process's batch, each with its part of the global batch's noise."""
        config = self.config
        share = distributed.local_slice(config.batch_size)
        size = config.micro_batch_size or len(batch)
        for start in range(0, len(batch), size):
            end = min(start + size, len(batch))
            noise = self._noise(phase, slice(share.start + start, share.start + end))
            yield batch.part(slice(start, end)), noise

    def _noise(self, purpose: str, which: slice) -> TrainingNoise:
        """The streams of this step for some images of the global batch."""
        seed, size = self.config.seed, self.config.batch_size
        return TrainingNoise(seed, self.state.step, purpose, global_batch=size, which=which)

    def _losses(self, phase: Phase, batch: Batch, noise: TrainingNoise) -> Float[Tensor, " B"]:
        """The losses of a phase, counted."""
        if phase.noisy_losses is None:
            losses = phase.loss(batch, noise)
        else:
            losses, errors, log_snr = phase.noisy_losses(batch, noise)
            self.means.add_levels(errors, log_snr)
        self.means.add(phase.name, losses)
        if isinstance(self.model, Observing):
            for name, values in self.model.observations().items():
                self.means.observe(name, values)
        return losses

    def _set_learning_rate(self) -> None:
        config, images = self.config, self.state.images
        if config.decay_images is not None:
            factor = config.rate.factor(images, config.decay_images)
        else:  # a budget in seconds
            factor = config.rate.factor(self.state.seconds, config.budget_seconds or 1.0)
        if config.warmup_images:
            factor *= min(1.0, (images + config.batch_size) / config.warmup_images)
        rate = config.learning_rate * factor * self.state.rate_factor
        for phase in self.phases:
            for group in self.optimizers[phase.module].param_groups:
                group["lr"] = rate * phase.rate

    @contextmanager
    def sampling(self) -> Iterator[GenerativeModel]:
        """The model in evaluation mode, with the weights it samples with."""
        model = self.model
        was_training = model.training
        model.eval()
        with (
            torch.no_grad(),
            weights_in_use(self.averages),
            computing(self.device, self.plan),
            eagerly(self.plan.compile),
        ):
            yield model
        model.train(was_training)

    @property
    def loss_scale(self) -> tuple[float, int] | None:
        """Of float16, and the steps since it grew; None in other precisions."""
        scaler = self.scaler.state_dict()
        return (scaler["scale"], scaler["_growth_tracker"]) if scaler else None

    @loss_scale.setter
    def loss_scale(self, saved: tuple[float, int] | None) -> None:
        if saved is not None and self.scaler.is_enabled():
            recorded = {"scale": saved[0], "_growth_tracker": saved[1]}
            self.scaler.load_state_dict(self.scaler.state_dict() | recorded)

    def progress(self) -> float:
        """The share of the budget that is used, 0 to 1."""
        config, state = self.config, self.state
        if config.budget_images is not None:
            return state.images / config.budget_images
        if config.budget_steps is not None:
            return state.step / config.budget_steps
        assert config.budget_seconds is not None
        return state.seconds / config.budget_seconds

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether every weight is a number, in all processes."""
        bad = 0.0
        for parameter in self.model.parameters():
            local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            bad = max(bad, float(not torch.isfinite(local).all()))
        return distributed.largest(bad) == [0.0]
