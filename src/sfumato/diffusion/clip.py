"""Keeping predicted images in their range, as a denoiser around the denoiser."""

from typing import Annotated, Literal

from pydantic import Field

from sfumato.core.config import component
from sfumato.core.images import Images, Labels
from sfumato.diffusion.broadcast import Times, per_image
from sfumato.diffusion.denoiser import Denoised, Denoiser


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
    quantile: float = 0.995

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ValueError(f"dynamic threshold needs 0 < quantile <= 1, got {self.quantile}")

    def __call__(self, x_0: Images) -> Images:
        limit = x_0.flatten(1).abs().float().quantile(self.quantile, dim=1).clamp(min=1)
        limit = limit.to(x_0).view(-1, 1, 1, 1)
        return x_0.clamp(-limit, limit) / limit


AnyClip = Annotated[NoClip | ClipToRange | DynamicThreshold, Field(discriminator="kind")]


class Clipped(Denoiser):
    """Clips x_0 and makes eps agree with it, so that x_t = alpha x_0 + sigma eps still holds."""

    def __init__(self, inner: Denoiser, clip: ClipToRange | DynamicThreshold) -> None:
        super().__init__(
            inner.network, inner.schedule, inner.parameterization, inner.learned_variance
        )
        self.inner = inner
        self.clip = clip

    def forward(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        """The inner denoiser's prediction, clipped."""
        denoised: Denoised = self.inner(x_t, t, labels)
        x_0 = self.clip(denoised.x_0)
        alpha, sigma = self.schedule.alpha_sigma(t)
        eps = (x_t - per_image(alpha, x_0) * x_0) / per_image(sigma, x_0)
        return Denoised(x_0, eps, denoised.variance_fraction)


def clipped(denoiser: Denoiser, clip: NoClip | ClipToRange | DynamicThreshold) -> Denoiser:
    """`denoiser` with its x_0 clipped; itself when there is nothing to clip."""
    return denoiser if isinstance(clip, NoClip) else Clipped(denoiser, clip)
