"""Guidance is itself a denoiser, around another: weak + scale (strong - weak).

The noisy classifier that classifier guidance needs is a model of its own, below.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.config import NonNegativeFloat, component
from sfumato.core.errors import ConfigError
from sfumato.core.generative_model import GenerativeModel, OnStep, Phase
from sfumato.core.images import Batch, Images, Labels, Shape
from sfumato.core.noise import RandomStream
from sfumato.diffusion.denoiser import Denoised, Denoiser, WrappedDenoiser
from sfumato.diffusion.noise_schedule import NoiseSchedule, Times, one_each, per_image
from sfumato.diffusion.parameterization import noise_label
from sfumato.diffusion.schedules import LinearBetaSchedule, Schedule
from sfumato.diffusion.time_sampling import UniformTimes
from sfumato.networks import Network
from sfumato.networks.edm2 import constraint

Interval = tuple[float, float]
"""Two noise levels sigma / alpha, between which guidance acts."""


def check_interval(name: str, interval: Interval | None) -> None:
    """Raise ValueError unless 0 <= low < high, or there is no interval."""
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise ValueError(
            f"{name} needs 0 <= low < high (noise levels sigma / alpha), got {interval}"
        )


def acts_at(schedule: NoiseSchedule, interval: Interval | None, t: Times) -> bool:
    """Whether guidance limited to `interval` acts at time t (the batch's first).

    Times are on the CPU: nothing waits for the device.
    """
    if interval is None:
        return True
    noise_level = (-schedule.log_snr(t.flatten()[0]) / 2).exp().item()
    return interval[0] <= noise_level <= interval[1]


def extrapolated(strong: Denoised, weak: Denoised, scale: float) -> Denoised:
    """weak + scale (strong - weak); the variance is the strong one's."""
    return Denoised(
        weak.x_0 + scale * (strong.x_0 - weak.x_0),
        weak.eps + scale * (strong.eps - weak.eps),
        strong.variance_fraction,
    )


@dataclass(frozen=True)
class Guided(WrappedDenoiser):
    """Classifier-free guidance: away from the prediction of the same network without the label.

    Both predictions come from one batch of twice the size. Unlabelled images are not guided.

    Source: Ho & Salimans 2022 (with scale = 1 + w); Kynkäänniemi et al. 2024 for the interval.
    """

    scale: float
    null_label: int
    interval: Interval | None = None

    def __call__(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        """The guided prediction."""
        if labels is None or self.scale == 1 or not acts_at(self.schedule, self.interval, t):
            return self.denoiser(x_t, t, labels)
        both_labels = torch.cat([labels, torch.full_like(labels, self.null_label)])
        both_times = t if t.ndim == 0 else t.repeat(2)
        both = self.denoiser(x_t.repeat(2, 1, 1, 1), both_times, both_labels)
        x_0, weak_x_0 = both.x_0.chunk(2)
        eps, weak_eps = both.eps.chunk(2)
        fraction = both.variance_fraction
        strong = Denoised(x_0, eps, None if fraction is None else fraction.chunk(2)[0])
        return extrapolated(strong, Denoised(weak_x_0, weak_eps), self.scale)


@dataclass(frozen=True)
class AutoGuided(WrappedDenoiser):
    """Autoguidance: away from a weaker model, such as an earlier checkpoint of the run.

    It needs no labels, and keeps the variety that classifier-free guidance loses.

    Source: Karras et al. 2024. Two network evaluations per step.
    Raises:
        ConfigError: the two have different schedules.
    """

    weak: Denoiser
    scale: float
    interval: Interval | None = None

    def __post_init__(self) -> None:
        if self.schedule != self.weak.schedule:
            raise ConfigError(
                f"autoguidance compares two models at one noise level, but their schedules differ: "
                f"{self.schedule} and {self.weak.schedule}; take the weaker model from the same run"
            )

    def __call__(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        """The guided prediction."""
        strong = self.denoiser(x_t, t, labels)
        if self.scale == 1 or not acts_at(self.schedule, self.interval, t):
            return strong
        return extrapolated(strong, self.weak(x_t, t, labels), self.scale)


@dataclass(frozen=True)
class ClassifierGuided(WrappedDenoiser):
    """Adds the gradient of log p(label | x_t) to the score.

    Args:
        classifier: (x_t, t) -> logits.
        scale: of the gradient; 0 is off. More than 1 sharpens the classifier's opinion.
        interval: noise levels sigma / alpha between which it acts.

    Source: Dhariwal & Nichol 2021, algorithm 2 (eps - scale sigma gradient).
    """

    classifier: Callable[[Tensor, Times], Tensor]
    scale: float
    interval: Interval | None = None

    def __call__(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        """The guided prediction; unlabelled images are not guided.

        Raises:
            ConfigError: t is pure noise, where a classifier gives x_0 no direction.
        """
        denoised = self.denoiser(x_t, t, labels)
        if labels is None or self.scale == 0 or not acts_at(self.schedule, self.interval, t):
            return denoised
        alpha, sigma = self.schedule.alpha_sigma(t)
        if (alpha == 0).any():
            raise ConfigError(
                "classifier guidance cannot act on pure noise; give it an interval that ends "
                "below the noise end (guidance.interval), or use another schedule"
            )
        # Sampling runs in inference mode, and autograd refuses tensors made there: copy them.
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.clone().detach().requires_grad_()
            log_p = self.classifier(x, t.clone()).log_softmax(1)
            (gradient,) = torch.autograd.grad(log_p.gather(1, labels.clone()[:, None]).sum(), x)
        pull = self.scale * per_image(sigma, x_t) * gradient
        x_0 = denoised.x_0 + per_image(sigma / alpha, x_t) * pull
        return Denoised(x_0, denoised.eps - pull, denoised.variance_fraction)


def without_interval(denoiser: Denoiser) -> Denoiser:
    """The same guidance at every noise level: what the costliest step of sampling evaluates."""
    if not isinstance(denoiser, Guided | AutoGuided | ClassifierGuided):
        return denoiser
    return replace(denoiser, denoiser=without_interval(denoiser.denoiser), interval=None)


@component
class ClassifierFreeGuidance:
    """How strongly samples are pulled towards their label; scale 1 is off."""

    kind: Literal["classifier_free"] = "classifier_free"
    scale: NonNegativeFloat = 1.0
    interval: Interval | None = None

    def __post_init__(self) -> None:
        check_interval("guidance interval", self.interval)

    def guide(self, denoiser: Denoiser, num_classes: int) -> Denoiser:
        """`denoiser` under this guidance; itself when there is nothing to guide."""
        if self.scale == 1 or num_classes == 0:
            return denoiser
        return Guided(denoiser, self.scale, null_label=num_classes, interval=self.interval)


@component
class NoisyClassifierConfig:
    """A classifier of noisy images, to guide a diffusion model of the same schedule.

    Args:
        network: any denoising network.
        schedule: that of the model to guide.
    """

    kind: Literal["noisy_classifier"] = "noisy_classifier"
    network: Network
    schedule: Schedule = LinearBetaSchedule()

    def build(self, image_shape: Shape, num_classes: int) -> "NoisyClassifier":
        """The classifier for images of `image_shape`. Raises ConfigError below 2 classes."""
        return NoisyClassifier(self.network, self.schedule, image_shape, num_classes)


class NoisyClassifier(GenerativeModel):
    """Predicts the class of x_t at any noise level; training has one phase.

    Any denoising network will do: it gets one channel per class, averaged over the image. It is a
    GenerativeModel for the trainer alone and cannot sample.

    Source: Dhariwal & Nichol 2021, section 4.
    """

    nfe = 1

    def __init__(
        self, network: Network, schedule: NoiseSchedule, image_shape: Shape, num_classes: int
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ConfigError(
                f"a noisy classifier needs at least 2 classes, got {num_classes}; "
                "use a labelled data set, and conditional = true"
            )
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.network = network.build(image_shape, 0, num_classes)
        self.schedule = schedule

    def forward(self, x_t: Images, t: Times) -> Float[Tensor, "B classes"]:
        """Logits of the classes of x_t; t is a scalar or one value per image."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        scale = (alpha**2 + sigma**2).rsqrt()
        label = one_each(noise_label(self.schedule, t), x_t)
        scores: Tensor = self.network(per_image(scale, x_t) * x_t, label, None)
        return scores.mean((2, 3))

    def phases(self) -> Sequence[Phase]:
        """One: cross-entropy on noisy images."""
        after = constraint(self.network)
        return [Phase("classifier", self, self.loss, noisy_losses=self.noisy_losses, after=after)]

    @property
    def sampled_module(self) -> nn.Module:
        """All of it, so that its weights are averaged."""
        return self

    def sample(
        self, labels: Labels | None, noise: RandomStream, on_step: OnStep | None = None
    ) -> Images:
        """Refused.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a noisy classifier draws no images; let it guide a diffusion model: "
            "sfumato sample RUN --classifier THIS_RUN --scale 2"
        )

    def loss(self, batch: Batch, noise: RandomStream) -> Float[Tensor, " B"]:
        """Cross-entropy of each image, noised to its own time."""
        return self.noisy_losses(batch, noise)[0]

    def noisy_losses(self, batch: Batch, noise: RandomStream) -> tuple[Tensor, Tensor, Tensor]:
        """The cross-entropy of each image (twice: it has no weight), and its log-SNR."""
        assert batch.labels is not None, "a classifier learns from labelled images"
        t = UniformTimes()(self.schedule, noise)
        alpha, sigma = self.schedule.alpha_sigma(t)
        x_0 = batch.images
        x_t = per_image(alpha, x_0) * x_0 + per_image(sigma, x_0) * noise.normal_like(x_0)
        error = F.cross_entropy(self(x_t, t), batch.labels, reduction="none")
        return error, error, self.schedule.log_snr(t)
