"""The diffusion model: the five concepts put together, trained and sampled like any other model."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.augment.labelled import NUM_LABELS, LabelledAugmentation
from sfumato.core.config import component, may_change
from sfumato.core.generative_model import OnStep, Phase
from sfumato.core.images import Batch, Images, Labels, Shape
from sfumato.core.noise import RandomStream
from sfumato.diffusion.broadcast import Times
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.discrete_schedules import LinearBetaSchedule
from sfumato.diffusion.guidance import ClassifierFreeGuidance
from sfumato.diffusion.loss import AnyLoss, SimpleLoss
from sfumato.diffusion.parameterization import AnyParameterization, EpsParameterization
from sfumato.diffusion.samplers import AnySampler
from sfumato.diffusion.samplers.auto import AutoSampler
from sfumato.diffusion.schedules import Schedule
from sfumato.diffusion.time_sampling import AnyTimeSampling, UniformTimes
from sfumato.networks import TAKES_AUGMENT_LABELS, Network
from sfumato.networks.constraints import constraint
from sfumato.networks.layers import TimeEmbedding


@component
class DiffusionConfig:
    """A diffusion model: DDPM unless said otherwise.

    With `augment` it trains on changed images and tells the network how they were changed.
    """

    kind: Literal["diffusion"] = "diffusion"
    network: Network
    schedule: Schedule = LinearBetaSchedule()
    parameterization: AnyParameterization = EpsParameterization()
    learned_variance: bool = False
    loss: AnyLoss = SimpleLoss()
    time_sampling: AnyTimeSampling = UniformTimes()
    label_dropout: float = 0.1
    sampler: Annotated[AnySampler, may_change("after_training")] = AutoSampler()
    guidance: Annotated[ClassifierFreeGuidance, may_change("after_training")] = (
        ClassifierFreeGuidance()
    )
    augment: LabelledAugmentation | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout must be in [0, 1), got {self.label_dropout}")
        if self.label_dropout == 0 and self.guidance.scale != 1:
            raise ValueError(
                f"guidance scale {self.guidance.scale} needs a network that also knows the "
                "unlabelled case; set label_dropout > 0 (0.1 is usual) or guidance.scale = 1"
            )
        if self.augment is not None and not isinstance(self.network, TAKES_AUGMENT_LABELS):
            raise ValueError(
                f"augment tells the network how images were changed, and network kind "
                f"{self.network.kind!r} cannot be told; use unet or ddpmpp, or leave augment out"
            )
        self.parameterization.check(self.schedule)
        self.loss.check(self.schedule, self.learned_variance)
        self.time_sampling.check(self.schedule)
        self.sampler.check(self.schedule, self.parameterization, self.learned_variance)

    def build(self, image_shape: Shape, num_classes: int) -> "DiffusionModel":
        """The model for images of `image_shape`; `num_classes` = 0 is unconditional."""
        return DiffusionModel(self, image_shape, num_classes)


class NoisyLosses(NamedTuple):
    """The loss of each image, and at which noise level it was incurred.

    `loss` is what is minimized: `error` times the weight that importance sampling of the times
    calls for. The trainer logs the errors by log-SNR, which shows *where* a model is bad.
    """

    loss: Float[Tensor, " B"]
    error: Float[Tensor, " B"]
    log_snr: Times


class DiffusionModel(nn.Module):
    """Trains a denoiser and samples from it: a GenerativeModel with one phase."""

    def __init__(self, config: DiffusionConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.image_shape = image_shape
        self.num_classes = num_classes
        channels = image_shape[0] * (2 if config.learned_variance else 1)
        network = config.network.build(image_shape, num_classes, channels)
        if config.augment is not None:
            embed_time = network.embed_time
            assert isinstance(embed_time, TimeEmbedding)
            embed_time.take_augment_labels(NUM_LABELS)
        self.denoiser = Denoiser(
            network,
            config.schedule,
            config.parameterization,
            config.learned_variance,
        )
        self.time_sampler = config.time_sampling.build(config.schedule)

    @property
    def nfe(self) -> int:
        """Network evaluations for one image; a guided step has two, with the label and without.

        With a guidance interval this is an upper bound.
        """
        guided = self.config.guidance.scale != 1 and self.num_classes > 0
        return self.config.sampler.nfe * (2 if guided else 1)

    @property
    def sampled_module(self) -> nn.Module:
        """The denoiser, whose weights are averaged."""
        return self.denoiser

    def phases(self) -> Sequence[Phase]:
        """One: the denoiser on its loss."""
        return [
            Phase(
                "denoiser",
                self.denoiser,
                self.loss,
                noisy_losses=self.noisy_losses,
                after=constraint(self.denoiser),
            )
        ]

    def loss(self, batch: Batch, noise: RandomStream) -> Float[Tensor, " B"]:
        """One loss an image, at times drawn for each."""
        return self.noisy_losses(batch, noise).loss

    def noisy_losses(self, batch: Batch, noise: RandomStream) -> NoisyLosses:
        """The training loss of each image with the log-SNR at which it was incurred."""
        t, weight = self.time_sampler(noise)
        images, augment_labels = batch.images, None
        if self.training and self.config.augment is not None:
            images, augment_labels = self.config.augment(images, noise)
        labels = self._drop_labels(batch.labels, noise)
        changed = replace(batch, images=images, labels=labels, augment_labels=augment_labels)
        error = self.config.loss(self.denoiser, changed, t, noise)
        if self.training:
            self.time_sampler.observe(t, error)
        return NoisyLosses(error * weight.to(error), error, self.config.schedule.log_snr(t))

    def sample(
        self, labels: Labels | None, noise: RandomStream, on_step: OnStep | None = None
    ) -> Images:
        """One image in [-1, 1] for each stream of `noise`, on the model's device.

        x_1 is drawn first, so that models of like image shape start from the same noise.
        """
        denoiser = self.config.guidance.guide(self.denoiser, self.num_classes)
        return self.sample_with(denoiser, labels, noise, on_step)

    def sample_with(
        self,
        denoiser: Denoiser,
        labels: Labels | None,
        noise: RandomStream,
        on_step: OnStep | None = None,
    ) -> Images:
        """`sample` by another denoiser than the config's: under autoguidance, say."""
        device = next(self.denoiser.parameters()).device
        schedule = self.config.schedule
        sampler = self.config.sampler.for_model(schedule, self.config.parameterization)
        start_std = schedule.start_std(sampler.grid(schedule, sampler.steps)[0])
        x_1 = noise.normal(*self.image_shape).to(device) * start_std
        if labels is not None:
            labels = labels.to(device)
        return sampler(denoiser, x_1, labels, noise, on_step).clamp(-1, 1)

    def sample_costliest_step(self, labels: Labels | None, noise: RandomStream) -> None:
        """The step of `sample` that needs most memory, for those who measure it."""

        class Enough(Exception):
            """Raised after the first step."""

        def stop(*_: object) -> None:
            raise Enough

        guidance = replace(self.config.guidance, interval=None)  # acts in the first step too
        denoiser = guidance.guide(self.denoiser, self.num_classes)
        with suppress(Enough):
            self.sample_with(denoiser, labels, noise, stop)

    def _drop_labels(self, labels: Labels | None, noise: RandomStream) -> Labels | None:
        """Turn a share of the labels into the null class, for classifier-free guidance."""
        if labels is None or self.num_classes == 0:
            return None
        if self.config.label_dropout == 0:
            return labels
        dropped = (noise.uniform() < self.config.label_dropout).to(labels.device)
        return torch.where(dropped, self.num_classes, labels)
