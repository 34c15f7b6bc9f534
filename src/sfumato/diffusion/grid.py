"""Time grids: the times that a sampler visits, falling from 1 to 0."""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field

from sfumato.core.config import component
from sfumato.core.errors import ConfigError
from sfumato.diffusion.broadcast import TimeGrid
from sfumato.diffusion.schedule import NoiseSchedule

CONTINUOUS_SIGMA_MIN = 0.002
"""The last noise level before clean data on a continuous schedule (Karras et al. 2022)."""


class Grid(ABC):
    """Chooses the times of a sampler."""

    kind: str

    @abstractmethod
    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        """`steps` + 1 falling times, the last of them 0 (clean data).

        Raises:
            ConfigError: the schedule has too few noise levels, or none of the kind asked for.
        """


@component
class UniformGrid(Grid):
    """Evenly from the noise end to the first noise level, then to clean data.

    On a discrete schedule these are steps from T to 1, rounded, both included (Improved DDPM's
    respacing; `linspace` in diffusers). On a continuous one there is no first noise level, and the
    grid is `steps` equal intervals of [0, 1].
    """

    kind: Literal["uniform"] = "uniform"

    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        if schedule.table is None:
            return _equal_intervals(steps)
        T = _num_levels(schedule, steps)
        return _then_clean(torch.linspace(T, 1, steps, dtype=torch.float64).round() / T)


@component
class LeadingGrid(Grid):
    """Every (T // steps)-th step, counted from the first: 1, 1 + stride, ... (Song et al. 2021).

    It stops short of T; Lin et al. 2024 show the harm. On a continuous schedule there is no such
    thing.
    """

    kind: Literal["leading"] = "leading"

    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        if schedule.table is None:
            raise ConfigError(
                "grid leading counts the steps of a discrete schedule; "
                "on a continuous one use uniform, log_snr or karras"
            )
        T = _num_levels(schedule, steps)
        visited = 1 + torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (T // steps)
        return _then_clean(visited / T)


@component
class TrailingGrid(Grid):
    """Equal intervals of [0, 1], counted from the noise end (Lin et al. 2024, table 2).

    On a discrete schedule the times are rounded to its grid.
    """

    kind: Literal["trailing"] = "trailing"

    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        if schedule.table is None:
            return _equal_intervals(steps)
        T = _num_levels(schedule, steps)
        return (_equal_intervals(steps) * T).round() / T


@component
class LogSnrGrid(Grid):
    """Evenly in log-SNR, then to clean data (Lu et al. 2022, DPM-Solver).

    Args:
        sigma_min, sigma_max: the window, in sigma / alpha. None is the schedule's own end, or
            0.002 at the data end of a continuous schedule.
        snap: move the times to the grid of a discrete schedule.
    """

    kind: Literal["log_snr"] = "log_snr"
    sigma_min: float | None = None
    sigma_max: float | None = None
    snap: bool = False

    def __post_init__(self) -> None:
        _check_window(self.kind, self.sigma_min, self.sigma_max)

    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        low, high = _window(self.kind, schedule, self.sigma_min, self.sigma_max)
        sigma = torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64).exp()
        return _times_of(schedule, sigma, self.snap)


@component
class KarrasGrid(Grid):
    """Evenly in sigma^(1 / rho), then to clean data (Karras et al. 2022, eq. 5).

    Args:
        rho: larger puts more of the steps near the data.
        sigma_min, sigma_max, snap: as in `log_snr`.
    """

    kind: Literal["karras"] = "karras"
    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None
    snap: bool = False

    def __post_init__(self) -> None:
        _check_window(self.kind, self.sigma_min, self.sigma_max)
        if self.rho <= 0:
            raise ValueError(f"grid karras needs rho > 0, got {self.rho}; the paper has 7")

    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        low, high = _window(self.kind, schedule, self.sigma_min, self.sigma_max)
        ends = high ** (1 / self.rho), low ** (1 / self.rho)
        sigma = torch.linspace(*ends, steps, dtype=torch.float64) ** self.rho
        return _times_of(schedule, sigma, self.snap)


AnyGrid = Annotated[
    UniformGrid | LeadingGrid | TrailingGrid | LogSnrGrid | KarrasGrid,
    Field(discriminator="kind"),
]


def _equal_intervals(steps: int) -> TimeGrid:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def _then_clean(times: TimeGrid) -> TimeGrid:
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


def _num_levels(schedule: NoiseSchedule, steps: int) -> int:
    assert schedule.table is not None
    T = schedule.table.num_steps
    if steps > T:
        raise ConfigError(
            f"sampler.steps is {steps}, but the schedule has {T} noise levels; "
            f"ask for at most {T} steps"
        )
    return T


def _check_window(kind: str, sigma_min: float | None, sigma_max: float | None) -> None:
    low, high = sigma_min or math.ulp(0), sigma_max or math.inf
    if not 0 < low < high or sigma_min == 0:
        raise ValueError(
            f"grid {kind} needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}"
        )


def _window(
    kind: str, schedule: NoiseSchedule, sigma_min: float | None, sigma_max: float | None
) -> tuple[float, float]:
    """The noise levels sigma / alpha between which the grid runs."""
    if sigma_max is None:
        end = torch.ones((), dtype=torch.float64)
        if schedule.reaches_pure_noise:
            raise ConfigError(
                f"grid {kind} is spaced by the noise level, which is infinite at t = 1 of this "
                "schedule; set sampler.grid.sigma_max (80 is usual) or use grid uniform"
            )
        sigma_max = (-schedule.log_snr(end) / 2).exp().item()
    if sigma_min is None:
        sigma_min = CONTINUOUS_SIGMA_MIN
        if schedule.table is not None:
            first = torch.tensor(1 / schedule.table.num_steps, dtype=torch.float64)
            sigma_min = (-schedule.log_snr(first) / 2).exp().item()
    return sigma_min, sigma_max


def _times_of(schedule: NoiseSchedule, sigma: TimeGrid, snap: bool) -> TimeGrid:
    log_snr = -2 * sigma.log()
    if not snap or schedule.table is None:
        # The window's ends come back from logarithms: keep rounding from passing t = 1.
        return _then_clean(schedule.time(log_snr).clamp(max=1))
    times = schedule.table.nearest_time(log_snr)
    if (times.diff() == 0).any():
        raise ConfigError(
            f"two of the {len(times)} times of the grid fall on the same noise level of the "
            "schedule; ask for fewer sampler.steps, or set sampler.grid.snap = false"
        )
    return _then_clean(times)
