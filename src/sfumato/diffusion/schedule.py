"""Noise schedules: the marginals x_t = alpha_t x_0 + sigma_t eps, and nothing else.

The primitive is log_snr(t) = log(alpha_t^2 / sigma_t^2), falling from +inf at t = 0 (data) to the
noise end at t = 1. A scaling splits it into alpha_t and sigma_t.
"""

from typing import ClassVar, Literal

import torch

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

    def start_std(self, t: Times) -> float:
        """The standard deviation of the Gaussian from which sampling starts at time t."""
        if self.scaling == "preserving":
            return 1.0
        return self.alpha_sigma(t)[1].item()
