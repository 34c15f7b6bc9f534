"""Continuous schedules: a noise level at every time in [0, 1]."""

import math
from typing import ClassVar, Literal

import torch

from sfumato.core.config import component
from sfumato.diffusion.broadcast import Times
from sfumato.diffusion.schedule import NoiseSchedule, Scaling


@component
class EDMSchedule(NoiseSchedule):
    """x_t = x_0 + sigma eps with sigma = sigma_max t (Karras et al. 2022, table 1).

    Their smallest noise level belongs to the time grid (`karras`), not to the schedule.
    """

    scaling: ClassVar[Scaling] = "exploding"
    kind: Literal["edm"] = "edm"
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if self.sigma_max <= 0:
            raise ValueError(f"edm needs sigma_max > 0, got {self.sigma_max}; the paper has 80")

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
