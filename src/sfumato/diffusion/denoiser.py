"""A denoiser finds x_0 in x_t: all that samplers, guidance and likelihoods need to know."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sfumato.core.config import PositiveFraction, component
from sfumato.core.images import Images, Labels
from sfumato.diffusion.noise_schedule import NoiseSchedule, Times, one_each, per_image
from sfumato.diffusion.parameterization import Coefficients, Parameterization


class Denoised(NamedTuple):
    """What a denoiser finds in x_t. Always x_t = alpha_t x_0 + sigma_t eps."""

    x_0: Float[Tensor, "B C H W"]
    eps: Float[Tensor, "B C H W"]
    variance_fraction: Float[Tensor, "B C H W"] | None = None
    """Where the variance of a reverse step lies between its bounds; None if it is not learned."""


@runtime_checkable
class NoiseLevels(Protocol):
    """At which noise levels a denoiser can be called, and how exact it is there."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The marginals of x_t."""
        ...

    def amplification(self, t: Times) -> Times:
        """The error of x_0 at times t in (0, 1] per unit error of the network.

        Raises:
            ConfigError: the denoiser is not defined at one of the times.
        """
        ...


@runtime_checkable
class Denoiser(NoiseLevels, Protocol):
    """Predicts x_0 and eps from x_t: a network, guidance around another denoiser, a formula."""

    def __call__(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        """x_0 and eps.

        Args:
            x_t: noisy images.
            t: their time in (0, 1], a scalar or one value per image.
            labels: classes; None is the null class.
        """
        ...


class Output(NamedTuple):
    """The network's own output, before it is turned into a prediction of x_0."""

    prediction: Float[Tensor, "B C H W"]
    variance_fraction: Float[Tensor, "B C H W"] | None


class NetworkDenoiser(nn.Module):
    """The denoiser that is trained: a network, a schedule and a parameterization.

    Args:
        network: forward(x, noise_label, labels) with as many channels out as in, or twice as many
            when the variance is learned. augment_labels follow for networks that take them.
        schedule: the marginals of x_t.
        parameterization: what the network predicts.
        learned_variance: the second half of the channels is the variance, as 2 v - 1.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        parameterization: Parameterization,
        learned_variance: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self.learned_variance = learned_variance

    def amplification(self, t: Times) -> Times:
        """|c_out|: see `NoiseLevels`."""
        return self.parameterization.amplification(self.schedule, t)

    def forward(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        """x_0 and eps predicted from x_t: see `Denoiser`."""
        c = self.parameterization.coefficients(self.schedule, t)
        return self.interpret(self.network_output(x_t, c, labels), c, x_t)

    def interpret(self, output: Output, c: Coefficients, x_t: Images) -> Denoised:
        """x_0 and eps from the network's output."""
        F, fraction = output
        x_0 = per_image(c.c_skip, x_t) * x_t + per_image(c.c_out, x_t) * F
        # eps = (x_t - alpha x_0) / sigma, with the terms gathered in float64 first: in float32
        # the difference would lose all digits at small sigma.
        on_x_t = (1 - c.alpha * c.c_skip) / c.sigma
        on_output = -c.alpha * c.c_out / c.sigma
        eps = per_image(on_x_t, x_t) * x_t + per_image(on_output, x_t) * F
        return Denoised(x_0, eps, fraction)

    def network_output(
        self,
        x_t: Images,
        c: Coefficients,
        labels: Labels | None,
        augment_labels: Float[Tensor, "B A"] | None = None,
    ) -> Output:
        """The network's prediction F, and the variance fraction if it is learned.

        Args:
            augment_labels: how training images were changed, for a network that takes them.
        """
        noise_label = one_each(c.c_noise, x_t)
        conditions = () if augment_labels is None else (augment_labels,)
        output = self.network(per_image(c.c_in, x_t) * x_t, noise_label, labels, *conditions)
        if not self.learned_variance:
            return Output(output, None)
        prediction, variance = output.chunk(2, dim=1)
        return Output(prediction, (variance + 1) / 2)


@dataclass(frozen=True)
class WrappedDenoiser:
    """A denoiser that calls another one, at the same noise levels, and changes its answer."""

    denoiser: Denoiser

    @property
    def schedule(self) -> NoiseSchedule:
        """That of the inner denoiser."""
        return self.denoiser.schedule

    def amplification(self, t: Times) -> Times:
        """That of the inner denoiser."""
        return self.denoiser.amplification(t)


@component
class NoClip:
    """The prediction of x_0 as it is."""

    kind: Literal["none"] = "none"

    def __call__(self, x_0: Images) -> Images:
        return x_0


@component
class ClipToRange:
    """Every value of x_0 to [-1, 1] (Ho et al. 2020, their code)."""

    kind: Literal["range"] = "range"

    def __call__(self, x_0: Images) -> Images:
        return x_0.clamp(-1, 1)


@component
class DynamicThreshold:
    """Clip to the `quantile` of |x_0| in each image, at least 1, and divide by it.

    Keeps strongly guided images from saturating. Source: Saharia et al. 2022, section 2.3.
    """

    kind: Literal["dynamic"] = "dynamic"
    quantile: PositiveFraction = 0.995

    def __call__(self, x_0: Images) -> Images:
        limit = x_0.flatten(1).abs().float().quantile(self.quantile, dim=1).clamp(min=1)
        limit = limit.to(x_0).view(-1, 1, 1, 1)
        return x_0.clamp(-limit, limit) / limit


AnyClip = Annotated[NoClip | ClipToRange | DynamicThreshold, Field(discriminator="kind")]


@dataclass(frozen=True)
class Clipped(WrappedDenoiser):
    """Clips x_0 and recomputes eps, so that x_t = alpha x_0 + sigma eps still holds."""

    clip: ClipToRange | DynamicThreshold

    def __call__(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        """The inner denoiser's prediction, clipped."""
        denoised = self.denoiser(x_t, t, labels)
        x_0 = self.clip(denoised.x_0)
        alpha, sigma = self.schedule.alpha_sigma(t)
        eps = (x_t - per_image(alpha, x_0) * x_0) / per_image(sigma, x_0)
        return Denoised(x_0, eps, denoised.variance_fraction)


def clipped(denoiser: Denoiser, clip: NoClip | ClipToRange | DynamicThreshold) -> Denoiser:
    """`denoiser` with its x_0 clipped; itself when there is nothing to clip."""
    return denoiser if isinstance(clip, NoClip) else Clipped(denoiser, clip)
