"""Noise schedules: the marginals x_t = alpha_t x_0 + sigma_t eps, and nothing else.

The primitive is log_snr(t) = log(alpha_t^2 / sigma_t^2), falling from +inf at t = 0 (data) to the
noise end at t = 1. A scaling splits it into alpha_t and sigma_t.
"""

import math
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from sfumato.core.config import component
from sfumato.diffusion.broadcast import Times
from sfumato.diffusion.table import LogSnrTable
from sfumato.diffusion.transition import Transition

Scaling = Literal["preserving", "exploding", "rectified"]


class NoiseSchedule:
    """The marginals of a diffusion process.

    A subclass either has a `table`, which makes it discrete, or overrides `log_snr` and `time`.
    All times and results are float64 on the CPU, one or one an image.
    """

    scaling: ClassVar[Scaling] = "preserving"

    @property
    def table(self) -> LogSnrTable | None:
        """The table of a discrete schedule; None when the schedule is continuous."""
        return None

    def log_snr(self, t: Times) -> Times:
        """log(alpha_t^2 / sigma_t^2) at times t in [0, 1]; +inf at 0.

        Raises:
            ConfigError: a discrete schedule has no noise level at that time.
        """
        assert self.table is not None, f"{type(self).__name__} has neither a table nor log_snr"
        return self.table.log_snr(t)

    def time(self, log_snr: Times) -> Times:
        """The time with that log-SNR: the inverse of `log_snr`.

        Raises:
            ConfigError: a discrete schedule has no such noise level.
        """
        assert self.table is not None, f"{type(self).__name__} has neither a table nor time"
        return self.table.time(log_snr)

    def alpha_sigma(self, t: Times) -> tuple[Times, Times]:
        """alpha_t and sigma_t."""
        log_snr = self.log_snr(t)
        match self.scaling:
            case "preserving":  # alpha^2 + sigma^2 = 1
                return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
            case "exploding":  # alpha = 1
                return torch.ones_like(log_snr), (-log_snr / 2).exp()
            case "rectified":  # alpha + sigma = 1
                return (log_snr / 2).sigmoid(), (-log_snr / 2).sigmoid()

    def transition(self, s: Times, t: Times) -> Transition:
        """The Gaussians between the times s < t."""
        alpha_s, sigma_s = self.alpha_sigma(s)
        alpha_t, sigma_t = self.alpha_sigma(t)
        tau = -torch.expm1(self.log_snr(t) - self.log_snr(s))
        return Transition(alpha_s, sigma_s, alpha_t, sigma_t, tau)

    @property
    def reaches_pure_noise(self) -> bool:
        """Whether nothing of the data is left at t = 1 (zero terminal SNR)."""
        return bool(self.log_snr(torch.ones((), dtype=torch.float64)).isneginf())

    @property
    def start_std(self) -> float:
        """The standard deviation of the Gaussian from which sampling starts at t = 1."""
        if self.scaling == "preserving":
            return 1.0
        return self.alpha_sigma(torch.ones((), dtype=torch.float64))[1].item()


@component
class LinearBetaSchedule(NoiseSchedule):
    """Discrete variance-preserving schedule of DDPM (Ho et al. 2020, section 4).

    beta_t = Var q(x_t | x_{t-1}) rises linearly; alpha_t^2 is the product of the (1 - beta).
    """

    kind: Literal["linear_beta"] = "linear_beta"
    num_steps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02

    def __post_init__(self) -> None:
        _check_num_steps(self.kind, self.num_steps)
        _check_betas(self.kind, self.beta_first, self.beta_last)

    @cached_property
    def table(self) -> LogSnrTable:
        """log-SNR at k / num_steps."""
        beta = torch.linspace(self.beta_first, self.beta_last, self.num_steps, dtype=torch.float64)
        return LogSnrTable(torch.log1p(-beta).cumsum(0))


@component
class CosineSchedule(NoiseSchedule):
    """Discrete cosine schedule of Improved DDPM (Nichol & Dhariwal 2021, eq. 17).

    alpha_t^2 = f(t) / f(0) with f(t) = cos^2((t + s) / (1 + s) pi / 2), except near the noise end,
    where the steps' betas are clipped at `beta_max`.
    """

    kind: Literal["cosine"] = "cosine"
    num_steps: int = 1000
    offset: float = 0.008
    beta_max: float = 0.999

    def __post_init__(self) -> None:
        _check_num_steps(self.kind, self.num_steps)
        if not 0 <= self.offset < 1:
            raise ValueError(
                f"cosine needs 0 <= offset < 1, got {self.offset}; the paper has 0.008"
            )
        if not 0 < self.beta_max < 1:
            raise ValueError(
                f"cosine needs 0 < beta_max < 1, got {self.beta_max}; the paper has 0.999"
            )

    @cached_property
    def table(self) -> LogSnrTable:
        """log-SNR at k / num_steps."""
        t = torch.linspace(0, 1, self.num_steps + 1, dtype=torch.float64)
        f = torch.cos((t + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        beta = (1 - f[1:] / f[:-1]).clamp(max=self.beta_max)
        return LogSnrTable(torch.log1p(-beta).cumsum(0))


def _check_num_steps(kind: str, num_steps: int) -> None:
    if num_steps < 2:
        raise ValueError(f"{kind} needs num_steps >= 2, got {num_steps}; DDPM has 1000")


def _check_betas(kind: str, first: float, last: float) -> None:
    if not 0 < first <= last < 1:
        raise ValueError(
            f"{kind} needs 0 < beta_first <= beta_last < 1, "
            f"got beta_first={first}, beta_last={last}; DDPM has 0.0001 and 0.02"
        )


Schedule = Annotated[LinearBetaSchedule | CosineSchedule, Field(discriminator="kind")]
