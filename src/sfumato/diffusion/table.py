"""The marginals of a discrete schedule: a table on the grid, interpolated between its points."""

import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor

from sfumato.core.errors import ConfigError
from sfumato.diffusion.broadcast import Times

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
