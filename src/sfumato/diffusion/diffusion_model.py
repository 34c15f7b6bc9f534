"""The diffusion model: the five concepts put together, trained and sampled like any other model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.augment.labelled import NUM_LABELS, LabelledAugmentation
from sfumato.core.config import FractionBelowOne, component, may_change
from sfumato.core.generative_model import GenerativeModel, OnStep, Phase
from sfumato.core.images import Batch, Images, Labels, Shape
from sfumato.core.noise import RandomStream
from sfumato.diffusion.denoiser import Denoiser, NetworkDenoiser
from sfumato.diffusion.guidance import ClassifierFreeGuidance, without_interval
from sfumato.diffusion.loss import AnyLoss, SimpleLoss
from sfumato.diffusion.noise_schedule import Times
from sfumato.diffusion.parameterization import AnyParameterization, EpsParameterization
from sfumato.diffusion.samplers import AnySampler
from sfumato.diffusion.samplers.ancestral import NO_LEARNED_VARIANCE, AncestralSampler
from sfumato.diffusion.samplers.auto import AutoSampler
from sfumato.diffusion.schedules import LinearBetaSchedule, Schedule
from sfumato.diffusion.time_sampling import AnyTimeSampling, UniformTimes
from sfumato.networks import TAKES_AUGMENT_LABELS, Network
from sfumato.networks.edm2 import constraint
from sfumato.networks.layers import TimeEmbedding


@component
class DiffusionConfig:
    """A diffusion model: DDPM by default.

    With `augment` it trains on changed images, and the network takes the changes as input.
    """

    kind: Literal["diffusion"] = "diffusion"
    network: Network
    schedule: Schedule = LinearBetaSchedule()
    parameterization: AnyParameterization = EpsParameterization()
    learned_variance: bool = False
    loss: AnyLoss = SimpleLoss()
    time_sampling: AnyTimeSampling = UniformTimes()
    label_dropout: FractionBelowOne = 0.1
    sampler: Annotated[AnySampler, may_change("after_training")] = AutoSampler()
    guidance: Annotated[ClassifierFreeGuidance, may_change("after_training")] = (
        ClassifierFreeGuidance()
    )
    augment: LabelledAugmentation | None = None

    def __post_init__(self) -> None:
        if self.label_dropout == 0 and self.guidance.scale != 1:
            raise ValueError(
                f"guidance scale {self.guidance.scale} needs a network that also knows the "
                "unlabelled case; set label_dropout > 0 (0.1 is usual) or guidance.scale = 1"
            )
        if self.augment is not None and not isinstance(self.network, TAKES_AUGMENT_LABELS):
            raise ValueError(
                f"augment gives the network the changes of images as input, and network kind "
                f"{self.network.kind!r} does not take it; use unet or ddpmpp, or leave augment out"
            )
        self.parameterization.check(self.schedule)
        self.loss.check(self.schedule, self.learned_variance)
        self.time_sampling.check(self.schedule)
        self.sampler.check(self)
        if (
            isinstance(self.sampler, AncestralSampler)
            and self.sampler.variance == "learned"
            and not self.learned_variance
        ):
            raise ValueError(NO_LEARNED_VARIANCE)

    def amplification(self, t: Times) -> Times:
        """That of the model's denoiser: see `NoiseLevels`."""
        return self.parameterization.amplification(self.schedule, t)

    def build(self, image_shape: Shape, num_classes: int) -> "DiffusionModel":
        """The model for images of `image_shape`; `num_classes` = 0 is unconditional."""
        return DiffusionModel(self, image_shape, num_classes)


class NoisyLosses(NamedTuple):
    """The loss of each image, and the noise level at which it occurred.

    `loss` is minimized: `error` times the weight of importance sampling of the times. The trainer
    logs the errors by log-SNR, which shows *where* a model is bad.
    """

    loss: Float[Tensor, " B"]
    error: Float[Tensor, " B"]
    log_snr: Times


class DiffusionModel(GenerativeModel):
    """Trains a denoiser and samples from it; training has one phase."""

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
        self.denoiser = NetworkDenoiser(
            network, config.schedule, config.parameterization, config.learned_variance
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
        """One loss per image, at times drawn for each."""
        return self.noisy_losses(batch, noise).loss

    def noisy_losses(self, batch: Batch, noise: RandomStream) -> NoisyLosses:
        """The training loss of each image with its log-SNR."""
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

        x_1 is drawn first, so that models of equal image shape start from the same noise.
        """
        return self.sample_with(self.guided, labels, noise, on_step)

    @property
    def guided(self) -> Denoiser:
        """The denoiser under the guidance of the config."""
        return self.config.guidance.guide(self.denoiser, self.num_classes)

    def sample_with(
        self,
        denoiser: Denoiser,
        labels: Labels | None,
        noise: RandomStream,
        on_step: OnStep | None = None,
    ) -> Images:
        """`sample` with another denoiser than the config's, such as one under autoguidance."""
        x_1, labels = self.start(labels, noise)
        return self.config.sampler(denoiser, x_1, labels, noise, on_step).clamp(-1, 1)

    def start(self, labels: Labels | None, noise: RandomStream) -> tuple[Images, Labels | None]:
        """The noise x_1 that sampling starts from, and the labels, on the model's device."""
        device = next(self.denoiser.parameters()).device
        schedule = self.config.schedule
        sampler = self.config.sampler.for_model(self.denoiser)
        start_std = schedule.start_std(sampler.grid(schedule, sampler.steps)[0])
        x_1 = noise.normal(*self.image_shape).to(device) * start_std
        return x_1, None if labels is None else labels.to(device)

    def sample_costliest_step(self, labels: Labels | None, noise: RandomStream) -> None:
        """The first step, guided even if guidance only acts in later ones."""
        self.first_step(self.guided, labels, noise)

    def first_step(self, denoiser: Denoiser, labels: Labels | None, noise: RandomStream) -> None:
        """The first step of `sample_with`, with guidance at every noise level."""
        x_1, labels = self.start(labels, noise)
        next(self.config.sampler.trajectory(without_interval(denoiser), x_1, labels, noise))

    def _drop_labels(self, labels: Labels | None, noise: RandomStream) -> Labels | None:
        """Turn a share of the labels into the null class, for classifier-free guidance."""
        if labels is None or self.num_classes == 0:
            return None
        if self.config.label_dropout == 0:
            return labels
        dropped = (noise.uniform() < self.config.label_dropout).to(labels.device)
        return torch.where(dropped, self.num_classes, labels)
