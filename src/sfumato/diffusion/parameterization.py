"""What the network predicts, as four coefficients (Karras et al. 2022, eq. 7).

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

from sfumato.core.config import PositiveFloat, component
from sfumato.core.errors import ConfigError
from sfumato.diffusion.noise_schedule import ON_GRID, NoiseSchedule, Times, per_image

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
        """F*: what the network should predict for x_t = alpha x_0 + sigma eps."""
        on_x_0 = (1 - self.c_skip * self.alpha) / self.c_out
        on_eps = -self.c_skip * self.sigma / self.c_out
        return per_image(on_x_0, x_0) * x_0 + per_image(on_eps, eps) * eps


class Parameterization(ABC):
    """A row of the table."""

    kind: str

    @abstractmethod
    def coefficients(self, schedule: NoiseSchedule, t: Times) -> Coefficients:
        """The coefficients at times t in (0, 1]."""

    def amplification(self, schedule: NoiseSchedule, t: Times) -> Times:
        """|c_out|: the error of x_0 per unit error of the network.

        Raises:
            ConfigError: this row is not defined at one of the times.
        """
        return self.coefficients(schedule, t).c_out.abs()

    def check(self, schedule: NoiseSchedule) -> None:
        """Raise ValueError, with the reason, if this row has no meaning on `schedule`."""
        del schedule


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
                "t = 1 the input is the noise itself and does not depend on x_0; use v or x_0"
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


@component
class VParameterization(Parameterization):
    """v = alpha eps - sigma x_0, after x_t is scaled to alpha^2 + sigma^2 = 1.

    Well conditioned at every noise level, pure noise included. Source: Salimans & Ho 2022, app. D.
    """

    kind: Literal["v"] = "v"

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> Coefficients:
        """x_0 = alpha x_t - sigma v when variance preserving."""
        alpha, sigma = schedule.alpha_sigma(t)
        c_in = (alpha**2 + sigma**2).rsqrt()
        label = noise_label(schedule, t)
        return Coefficients(alpha * c_in**2, -sigma * c_in, c_in, label, alpha, sigma)


@component
class VelocityParameterization(Parameterization):
    """u = eps - x_0, the velocity of the straight line from image to noise.

    On another schedule than rectified flow, x_t is scaled to alpha + sigma = 1 first, which puts it
    on that line. Source: Liu et al. 2023, eq. 1; Lipman et al. 2023, eq. 23.
    """

    kind: Literal["velocity"] = "velocity"

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> Coefficients:
        """x_0 = x_t - sigma u when rectified."""
        alpha, sigma = schedule.alpha_sigma(t)
        c_in = 1 / (alpha + sigma)
        label = noise_label(schedule, t)
        return Coefficients(c_in, -sigma * c_in, c_in, label, alpha, sigma)


@component
class EDMParameterization(Parameterization):
    """Input and target have unit variance, and errors of the network are amplified least.

    Given for x_0 + sigma eps; other schedules are scaled to that form. `sigma_data` is the standard
    deviation of the data in [-1, 1]. Source: Karras et al. 2022, table 1 and appendix B.6.
    """

    kind: Literal["edm"] = "edm"
    sigma_data: PositiveFloat = 0.5

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> Coefficients:
        """With alpha = 1, the four of the paper."""
        alpha, sigma = schedule.alpha_sigma(t)
        c_in = (sigma**2 + (alpha * self.sigma_data) ** 2).rsqrt()
        c_skip = alpha * self.sigma_data**2 * c_in**2
        c_noise = -schedule.log_snr(t) / 8  # log(sigma) / 4
        return Coefficients(c_skip, sigma * self.sigma_data * c_in, c_in, c_noise, alpha, sigma)

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse a schedule that ends in pure noise."""
        if schedule.reaches_pure_noise:
            raise ValueError(
                "parameterization edm gives the network log(sigma / alpha), which is infinite at "
                "t = 1 of a schedule with zero terminal SNR; use v or velocity"
            )


@component
class MeanParameterization(Parameterization):
    """The network predicts the posterior mean of the previous step (Ho et al. 2020, eq. 8).

    It needs to know which step that is, so it is only defined on the steps of a discrete schedule.
    """

    kind: Literal["mean"] = "mean"

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> Coefficients:
        """Solves mean = a x_0 + b x_t for x_0.

        Raises:
            ConfigError: t is not on the schedule's grid.
        """
        assert schedule.table is not None, "check() refuses continuous schedules"
        T = schedule.table.num_steps
        position = t * T
        if ((position - position.round()).abs() > ON_GRID).any():
            raise ConfigError(
                "parameterization mean predicts the previous step of the grid, and so cannot be "
                "asked at a time between two steps; use a sampler and a grid that stay on it "
                "(ancestral or ddim, with grid uniform, leading or trailing)"
            )
        step = schedule.transition((position.round() - 1) / T, t)
        on_x_0, on_x_t = step.posterior_weights
        c_in = (step.alpha_t**2 + step.sigma_t**2).rsqrt()
        label = noise_label(schedule, t)
        return Coefficients(-on_x_t / on_x_0, 1 / on_x_0, c_in, label, step.alpha_t, step.sigma_t)

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse continuous schedules."""
        if schedule.table is None:
            raise ValueError(
                "parameterization mean has no meaning on a continuous schedule: there is no "
                "previous step whose mean it could be; use eps, v or x_0"
            )


def noise_label(schedule: NoiseSchedule, t: Times) -> Times:
    """The number by which a network knows the noise level.

    DDPM's networks see the 0-based step. On a continuous schedule they see the same range.
    """
    if schedule.table is not None:
        return schedule.table.num_steps * t - 1
    return CONTINUOUS_LABELS * t


AnyParameterization = Annotated[
    EpsParameterization
    | ImageParameterization
    | VParameterization
    | VelocityParameterization
    | EDMParameterization
    | MeanParameterization,
    Field(discriminator="kind"),
]
