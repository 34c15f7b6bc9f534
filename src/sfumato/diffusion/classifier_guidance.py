"""Classifier guidance: towards images that a classifier of noisy images takes for the label."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.config import component
from sfumato.core.errors import ConfigError
from sfumato.core.generative_model import GenerativeModel, OnStep, Phase
from sfumato.core.images import Batch, Images, Labels, Shape
from sfumato.core.noise import RandomStream
from sfumato.diffusion.broadcast import Times, one_each, per_image
from sfumato.diffusion.denoiser import Denoised, Denoiser
from sfumato.diffusion.discrete_schedules import LinearBetaSchedule
from sfumato.diffusion.guidance import Interval, acts_at
from sfumato.diffusion.parameterization import noise_label
from sfumato.diffusion.schedule import NoiseSchedule
from sfumato.diffusion.schedules import Schedule
from sfumato.diffusion.time_sampling import UniformTimes
from sfumato.networks import Network
from sfumato.networks.mp_layers import constraint


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
    """Tells the class of x_t at any noise level; trained like a model, by its one phase.

    Any denoising network will do: it gets a channel a class, averaged over the image. The trainer
    takes it for a GenerativeModel, but it cannot sample.

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
        """Logits of the classes of x_t, at one time for all or one an image."""
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
        """Cross-entropy of each image, noised to a time of its own."""
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


class ClassifierGuided(Denoiser):
    """Adds the gradient of log p(label | x_t) to the score.

    Args:
        classifier: (x_t, t) -> logits.
        scale: of the gradient; 0 is off. More than 1 sharpens the classifier's opinion.
        interval: of noise levels sigma / alpha where it acts.

    Source: Dhariwal & Nichol 2021, algorithm 2 (eps - scale sigma gradient).
    """

    def __init__(
        self,
        inner: Denoiser,
        classifier: nn.Module,
        scale: float,
        interval: Interval | None = None,
    ) -> None:
        super().__init__(
            inner.network, inner.schedule, inner.parameterization, inner.learned_variance
        )
        self.inner = inner
        self.classifier = classifier
        self.scale = scale
        self.interval = interval

    def forward(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        """The guided prediction; unlabelled images are left alone.

        Raises:
            ConfigError: t is pure noise, from which no classifier can tell a direction of x_0.
        """
        denoised: Denoised = self.inner(x_t, t, labels)
        if labels is None or self.scale == 0 or not acts_at(self.schedule, self.interval, t):
            return denoised
        alpha, sigma = self.schedule.alpha_sigma(t)
        if (alpha == 0).any():
            raise ConfigError(
                "classifier guidance cannot act on pure noise; give it an interval that ends "
                "below the noise end (guidance.interval), or use another schedule"
            )
        # Sampling runs in inference mode, whose tensors no gradient can be taken of: copy them.
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.clone().detach().requires_grad_()
            log_p = self.classifier(x, t.clone()).log_softmax(1)
            (gradient,) = torch.autograd.grad(log_p.gather(1, labels.clone()[:, None]).sum(), x)
        pull = self.scale * per_image(sigma, x_t) * gradient
        x_0 = denoised.x_0 + per_image(sigma / alpha, x_t) * pull
        return Denoised(x_0, denoised.eps - pull, denoised.variance_fraction)
