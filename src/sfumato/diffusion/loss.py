"""Training objectives: one number an image, at times that are given."""

from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from sfumato.core.config import component
from sfumato.core.images import Batch
from sfumato.core.noise import RandomStream
from sfumato.diffusion.broadcast import Times, per_image
from sfumato.diffusion.denoiser import Denoiser


class Loss(ABC):
    """An objective at given times; the distribution of the times is a matter of its own."""

    kind: str

    @abstractmethod
    def __call__(
        self, denoiser: Denoiser, batch: Batch, t: Times, noise: RandomStream
    ) -> Float[Tensor, " B"]:
        """The loss of each image at its time t (shape [B]); `noise` supplies eps."""


@component
class SimpleLoss(Loss):
    """L_simple: squared error of the network's output, averaged over the pixels.

    Source: Ho et al. 2020, eq. 14.
    """

    kind: Literal["simple"] = "simple"

    def __call__(
        self, denoiser: Denoiser, batch: Batch, t: Times, noise: RandomStream
    ) -> Float[Tensor, " B"]:
        x_0 = batch.images
        eps = noise.normal_like(x_0)
        c = denoiser.parameterization.coefficients(denoiser.schedule, t)
        x_t = per_image(c.alpha, x_0) * x_0 + per_image(c.sigma, x_0) * eps
        output = denoiser.network_output(x_t, c, batch.labels).prediction
        return (output - c.target(x_0, eps)).square().flatten(1).mean(1)


AnyLoss = SimpleLoss
