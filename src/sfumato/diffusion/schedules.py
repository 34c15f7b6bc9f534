"""Discrete schedules: a table of T noise levels, as in DDPM and its successors."""

import math
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from sfumato.core.config import FractionBelowOne, PositiveFloat, component
from sfumato.diffusion.noise_schedule import LogSnrTable, NoiseSchedule, Scaling, Times

NumSteps = Annotated[int, Field(ge=2)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]


def _check_betas(kind: str, first: float, last: float) -> None:
    if not 0 < first <= last < 1:
        raise ValueError(
            f"{kind} needs 0 < beta_first <= beta_last < 1, "
            f"got beta_first={first}, beta_last={last}; DDPM has 0.0001 and 0.02"
        )


def _table_of(alpha_bar: Times, beta_max: float) -> LogSnrTable:
    """From alpha_t^2 at k / T, k = 0..T, with the betas of the steps clipped."""
    beta = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max)
    return LogSnrTable(torch.log1p(-beta).cumsum(0))


@component
class LinearBetaSchedule(NoiseSchedule):
    """Discrete variance-preserving schedule of DDPM (Ho et al. 2020, section 4).

    beta_t = Var q(x_t | x_{t-1}) rises linearly; alpha_t^2 is the product of the (1 - beta).
    """

    kind: Literal["linear_beta"] = "linear_beta"
    num_steps: NumSteps = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02

    def __post_init__(self) -> None:
        _check_betas(self.kind, self.beta_first, self.beta_last)

    @cached_property
    def table(self) -> LogSnrTable:
        """log-SNR at k / num_steps."""
        beta = torch.linspace(self.beta_first, self.beta_last, self.num_steps, dtype=torch.float64)
        return LogSnrTable(torch.log1p(-beta).cumsum(0))


@component
class ScaledLinearSchedule(NoiseSchedule):
    """The square root of beta rises linearly, as in latent diffusion (Rombach et al. 2022)."""

    kind: Literal["scaled_linear"] = "scaled_linear"
    num_steps: NumSteps = 1000
    beta_first: float = 0.00085
    beta_last: float = 0.012

    def __post_init__(self) -> None:
        _check_betas(self.kind, self.beta_first, self.beta_last)

    @cached_property
    def table(self) -> LogSnrTable:
        """log-SNR at k / num_steps."""
        ends = math.sqrt(self.beta_first), math.sqrt(self.beta_last)
        beta = torch.linspace(*ends, self.num_steps, dtype=torch.float64) ** 2
        return LogSnrTable(torch.log1p(-beta).cumsum(0))


@component
class CosineSchedule(NoiseSchedule):
    """Discrete cosine schedule of Improved DDPM (Nichol & Dhariwal 2021, eq. 17).

    alpha_t^2 = f(t) / f(0) with f(t) = cos^2((t + s) / (1 + s) pi / 2), except near the noise end,
    where the steps' betas are clipped at `beta_max`.
    """

    kind: Literal["cosine"] = "cosine"
    num_steps: NumSteps = 1000
    offset: FractionBelowOne = 0.008
    beta_max: OpenFraction = 0.999

    @cached_property
    def table(self) -> LogSnrTable:
        """log-SNR at k / num_steps."""
        t = torch.linspace(0, 1, self.num_steps + 1, dtype=torch.float64)
        f = torch.cos((t + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        return _table_of(f / f[0], self.beta_max)


@component
class SigmoidSchedule(NoiseSchedule):
    """alpha_t^2 falls along a sigmoid from `start` to `end`, scaled to [0, 1].

    `temperature` < 1 keeps more images at middling noise. As with the cosine, betas are clipped.

    Source: Jabri et al. 2023, algorithm 1 (start -3, end 3).
    """

    kind: Literal["sigmoid"] = "sigmoid"
    num_steps: NumSteps = 1000
    start: float = -3.0
    end: float = 3.0
    temperature: PositiveFloat = 1.0
    beta_max: OpenFraction = 0.999

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ValueError(f"sigmoid needs start < end, got start={self.start}, end={self.end}")

    @cached_property
    def table(self) -> LogSnrTable:
        """log-SNR at k / num_steps."""
        along = torch.linspace(self.start, self.end, self.num_steps + 1, dtype=torch.float64)
        f = (-along / self.temperature).sigmoid()
        return _table_of((f - f[-1]) / (f[0] - f[-1]), self.beta_max)


BaseSchedule = Annotated[
    LinearBetaSchedule | ScaledLinearSchedule | CosineSchedule | SigmoidSchedule,
    Field(discriminator="kind"),
]


@component
class ZeroTerminalSnrSchedule(NoiseSchedule):
    """Another schedule, rescaled so that nothing of the data is left at t = 1.

    alpha is shifted to end at 0 and scaled to keep its first value. Source: Lin et al. 2024,
    algorithm 1.
    """

    kind: Literal["zero_terminal_snr"] = "zero_terminal_snr"
    base: BaseSchedule = LinearBetaSchedule()

    @cached_property
    def table(self) -> LogSnrTable:
        """log-SNR at k / T of the base schedule; -inf at the end."""
        T = self.base.table.num_steps
        alpha, _ = self.base.alpha_sigma(torch.arange(1, T + 1, dtype=torch.float64) / T)
        first, last = alpha[0], alpha[-1]
        return LogSnrTable(2 * ((alpha - last) * first / (first - last)).log())


@component
class EDMSchedule(NoiseSchedule):
    """x_t = x_0 + sigma eps with sigma = sigma_max t (Karras et al. 2022, table 1).

    Their smallest noise level belongs to the time grid (`karras`), not to the schedule.
    """

    scaling: ClassVar[Scaling] = "exploding"
    kind: Literal["edm"] = "edm"
    sigma_max: PositiveFloat = 80.0

    def log_snr(self, t: Times) -> Times:
        """-2 log sigma."""
        return -2 * (self.sigma_max * t).log()

    def time(self, log_snr: Times) -> Times:
        """sigma / sigma_max."""
        return (-log_snr / 2).exp() / self.sigma_max


@component
class RectifiedFlowSchedule(NoiseSchedule):
    """The straight line x_t = (1 - t) x_0 + t eps (Liu et al. 2023; Lipman et al. 2023)."""

    scaling: ClassVar[Scaling] = "rectified"
    kind: Literal["rectified_flow"] = "rectified_flow"

    def log_snr(self, t: Times) -> Times:
        """2 log((1 - t) / t): -inf at t = 1, which is pure noise."""
        return -2 * torch.logit(t)

    def time(self, log_snr: Times) -> Times:
        """sigma itself."""
        return (-log_snr / 2).sigmoid()


@component
class ContinuousCosineSchedule(NoiseSchedule):
    """alpha = cos(a t), sigma = sin(a t), with a such that t = 1 has the given log-SNR.

    Source: Kingma & Gao 2023, appendix; a = pi / 2 would be pure noise at t = 1.
    """

    kind: Literal["continuous_cosine"] = "continuous_cosine"
    log_snr_min: float = -15.0

    def log_snr(self, t: Times) -> Times:
        """-2 log tan(a t)."""
        return -2 * (self._angle * t).tan().log()

    def time(self, log_snr: Times) -> Times:
        """arctan(sigma / alpha) / a."""
        return (-log_snr / 2).exp().arctan() / self._angle

    @property
    def _angle(self) -> float:
        return math.atan(math.exp(-self.log_snr_min / 2))


Schedule = Annotated[
    LinearBetaSchedule
    | ScaledLinearSchedule
    | CosineSchedule
    | SigmoidSchedule
    | ZeroTerminalSnrSchedule
    | EDMSchedule
    | RectifiedFlowSchedule
    | ContinuousCosineSchedule,
    Field(discriminator="kind"),
]
