"""What the network is asked to predict, as four coefficients (Karras et al. 2022, eq. 7).

    x_0 = c_skip x_t + c_out F(c_in x_t, c_noise)

The regression target follows: F* = ((1 - c_skip alpha) x_0 - c_skip sigma eps) / c_out. So noise,
image, velocity or anything between are rows of one table, and nothing converts between them.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sfumato.core.config import component
from sfumato.diffusion.broadcast import Times, per_image
from sfumato.diffusion.schedule import NoiseSchedule

CONTINUOUS_LABELS = 1000.0
"""The noise label of a continuous schedule at t = 1, so that networks see DDPM's range."""


class Coefficients(NamedTuple):
    """c_skip, c_out, c_in, c_noise of a parameterization, and the marginal they belong to."""

    c_skip: Times
    c_out: Times
    c_in: Times
    c_noise: Times
    alpha: Times
    sigma: Times

    def target(
        self, x_0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B ..."]:
        """F*: what the network should say for x_t = alpha x_0 + sigma eps."""
        on_x_0 = (1 - self.c_skip * self.alpha) / self.c_out
        on_eps = -self.c_skip * self.sigma / self.c_out
        return per_image(on_x_0, x_0) * x_0 + per_image(on_eps, eps) * eps


class Parameterization(ABC):
    """A row of the table."""

    kind: str

    @abstractmethod
    def coefficients(self, schedule: NoiseSchedule, t: Times) -> Coefficients:
        """The coefficients at times t in (0, 1]."""

    @abstractmethod
    def check(self, schedule: NoiseSchedule) -> None:
        """Raise ValueError, with the reason, if this row has no meaning on `schedule`."""


@component
class EpsParameterization(Parameterization):
    """The network predicts the noise (Ho et al. 2020, section 3.2)."""

    kind: Literal["eps"] = "eps"

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> Coefficients:
        """x_0 = (x_t - sigma eps) / alpha."""
        alpha, sigma = schedule.alpha_sigma(t)
        c_in = (alpha**2 + sigma**2).rsqrt()
        return Coefficients(1 / alpha, -sigma / alpha, c_in, noise_label(schedule, t), alpha, sigma)

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse a schedule that ends in pure noise."""
        if schedule.reaches_pure_noise:
            raise ValueError(
                "parameterization eps has no meaning on a schedule with zero terminal SNR: at "
                "t = 1 the input is the noise itself and says nothing of x_0; use v or x_0"
            )


@component
class ImageParameterization(Parameterization):
    """The network predicts the clean image x_0."""

    kind: Literal["x_0"] = "x_0"

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> Coefficients:
        """x_0 = F."""
        alpha, sigma = schedule.alpha_sigma(t)
        zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
        c_in = (alpha**2 + sigma**2).rsqrt()
        return Coefficients(zero, one, c_in, noise_label(schedule, t), alpha, sigma)

    def check(self, schedule: NoiseSchedule) -> None:
        """Every schedule will do."""


def noise_label(schedule: NoiseSchedule, t: Times) -> Times:
    """The number that tells a network the noise level.

    DDPM's networks see the 0-based step; on a continuous schedule they see a like range.
    """
    if schedule.table is not None:
        return schedule.table.num_steps * t - 1
    return CONTINUOUS_LABELS * t


AnyParameterization = Annotated[
    EpsParameterization | ImageParameterization, Field(discriminator="kind")
]
