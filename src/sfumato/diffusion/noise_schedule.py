"""Noise schedules: the marginals x_t = alpha_t x_0 + sigma_t eps, and nothing else.

The primitive is log_snr(t) = log(alpha_t^2 / sigma_t^2), falling from +inf at t = 0 (data) to the
noise end at t = 1. A scaling splits it into alpha_t and sigma_t.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from sfumato.core.errors import ConfigError

Scaling = Literal["preserving", "exploding", "rectified"]


Times = Float64[Tensor, "*B"]
"""One time for the whole batch (a scalar) or one per image; float64, on the CPU, in [0, 1]."""
TimeGrid = Float64[Tensor, " _"]
"""The times that a sampler visits, falling."""


def per_image(coefficient: Float64[Tensor, "*B"], x: Float[Tensor, "B ..."]) -> Tensor:
    """`coefficient` in a form that multiplies the images `x` without changing their dtype.

    A scalar stays as it is: torch multiplies images on any device by a scalar of the CPU, with
    neither a copy nor a synchronization. One number per image becomes a column on x's device.
    """
    if coefficient.ndim == 0:
        return coefficient
    return one_each(coefficient, x).view(-1, *[1] * (x.ndim - 1))


def one_each(coefficient: Float64[Tensor, "*B"], x: Float[Tensor, "B ..."]) -> Float[Tensor, " B"]:
    """`coefficient` as one number per image, in x's dtype and on its device, without waiting."""
    if coefficient.ndim == 0:
        return x.new_full((len(x),), coefficient.item())
    return coefficient.to(x, non_blocking=True)


ON_GRID = 1e-6
"""Times this close to a grid point, in steps, are that grid point."""


class LogSnrTable:
    """log-SNR of a variance-preserving schedule at the times k / T, k = 0..T.

    Row 0 is clean data (log-SNR +inf), so the last reverse step is not a special case. Between the
    grid points on [1/T, 1] the table interpolates linearly in log alpha, as DPM-Solver does
    (Lu et al. 2022, appendix D.4), so that every solver can run on it. Inside (0, 1/T), and in the
    last interval when the terminal SNR is zero, there is nothing to interpolate.

    Args:
        log_alpha_bar: log alpha_t^2 at k = 1..T: falling, negative; -inf is allowed at the end.
    """

    def __init__(self, log_alpha_bar: Float64[Tensor, " T"]) -> None:
        self.num_steps = len(log_alpha_bar)
        self._log_alpha_bar = F.pad(log_alpha_bar, (1, 0))
        self._log_snr = _log_snr_of(self._log_alpha_bar)
        self.has_zero_terminal_snr = bool(log_alpha_bar[-1].isneginf())

    def log_snr(self, t: Times) -> Times:
        """log-SNR at times t in [0, 1]. Raises ConfigError in the gaps described above."""
        position = t * self.num_steps
        nearest = position.round()
        on_grid = (position - nearest).abs() < ON_GRID
        self._refuse_gaps(position, on_grid)
        exact = self._log_snr[nearest.long()]
        if on_grid.all():
            return exact
        left = position.floor().clamp(1, self.num_steps - 1).long()
        a, b = self._log_alpha_bar[left], self._log_alpha_bar[left + 1]
        return torch.where(on_grid, exact, _log_snr_of(a + (position - left) * (b - a)))

    def time(self, log_snr: Times) -> Times:
        """The inverse of `log_snr`. Raises ConfigError for a log-SNR that no valid time has."""
        falling, wanted = -self._log_alpha_bar, -F.logsigmoid(log_snr)
        right = torch.searchsorted(falling, wanted).clamp(1, self.num_steps)
        a, b = falling[right - 1], falling[right]
        # Where b is infinite (zero terminal SNR) only the end of the interval is a valid time.
        weight = torch.where(b.isinf(), wanted.isinf().double(), (wanted - a) / (b - a))
        position = right - 1 + weight
        nearest = position.round()
        on_grid = (position - nearest).abs() < ON_GRID
        position = torch.where(on_grid, nearest, position)
        self._refuse_gaps(position, on_grid)
        return position / self.num_steps

    def nearest_time(self, log_snr: Times) -> Times:
        """The grid time k / T, k = 1..T, whose log-SNR is nearest."""
        rising = -self._log_snr[1:]
        middles = (rising[1:] + rising[:-1]) / 2  # inf before a terminal SNR of zero
        k = torch.searchsorted(middles, -log_snr.contiguous()) + 1
        return k.to(torch.float64) / self.num_steps

    def _refuse_gaps(self, position: Times, on_grid: Tensor) -> None:
        T = self.num_steps
        low, high = (1, T - 1) if self.has_zero_terminal_snr else (1, T)
        bad = ~on_grid & ((position < low) | (position > high)) | (position > T + 0.5)
        bad |= position < -0.5
        if bad.any():
            worst = (position[bad] / T).flatten()[0].item()
            raise ConfigError(
                f"the schedule of {T} steps has no noise level at time {worst:.6g}: it is defined "
                f"at 0 and on [{1 / T:.6g}, 1]"
                + (f" except in ({1 - 1 / T:.6g}, 1)" if self.has_zero_terminal_snr else "")
                + "; choose a grid of times inside that range"
            )


def _log_snr_of(log_alpha_bar: Times) -> Times:
    """log(a / (1 - a)) from log a, exact also where a is close to 1."""
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


@dataclass(frozen=True)
class Transition:
    """The Gaussians between x_s and x_t, where s is the cleaner of the two.

    Everything follows from the marginals and from `tau = 1 - SNR_t / SNR_s`, the share of the
    variance at t that was added after s. With s and t neighbours on DDPM's grid, the forward
    variance is beta_t and the posterior variance beta-tilde_t; respacing is just another pair.

    Source: Ho et al. 2020, eqs. 2, 6 and 7; Kingma et al. 2021, appendix A, for any s and t.
    """

    alpha_s: Times
    sigma_s: Times
    alpha_t: Times
    sigma_t: Times
    tau: Times

    @property
    def forward_scale(self) -> Times:
        """E[x_t | x_s] = forward_scale x_s."""
        return self.alpha_t / self.alpha_s

    @property
    def forward_variance(self) -> Times:
        """Var q(x_t | x_s): beta_t on DDPM's grid."""
        return self.sigma_t**2 * self.tau

    @property
    def posterior_variance(self) -> Times:
        """Var q(x_s | x_t, x_0): beta-tilde_t on DDPM's grid; 0 at s = 0."""
        return self.sigma_s**2 * self.tau

    @property
    def posterior_weights(self) -> tuple[Times, Times]:
        """(a, b) of the posterior mean a x_0 + b x_t."""
        return self.alpha_s * self.tau, self.forward_scale * (self.sigma_s / self.sigma_t) ** 2

    def posterior_mean(
        self, x_0: Float[Tensor, "B ..."], x_t: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B ..."]:
        """E[x_s | x_t, x_0]."""
        on_x_0, on_x_t = self.posterior_weights
        return per_image(on_x_0, x_0) * x_0 + per_image(on_x_t, x_t) * x_t

    def learned_log_variance(
        self, fraction: Float[Tensor, "B ..."], posterior_floor: Times
    ) -> Float[Tensor, "B ..."]:
        """Interpolates the logs of the posterior (0) and the forward variance (1).

        Args:
            fraction: what the network predicts, for each pixel; in [0, 1] up to its mistakes.
            posterior_floor: stands in for the posterior variance where that is smaller, as at
                s = 0 where it is 0: the posterior variance of the grid's second step.

        Source: Nichol & Dhariwal 2021, eq. 15.
        """
        low = torch.maximum(self.posterior_variance, posterior_floor).log()
        high = self.forward_variance.log()
        return per_image(low, fraction) + fraction * per_image(high - low, fraction)


class NoiseSchedule:
    """The marginals of a diffusion process.

    A subclass either has a `table`, which makes it discrete, or overrides `log_snr` and `time`.
    All times and results are float64 on the CPU, a scalar or one value per image.
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
