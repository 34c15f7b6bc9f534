"""Time grids: the times that a sampler visits, falling from the noise end to 0.

Every grid may start at a noise level `sigma_max` (sigma / alpha) in place of t = 1. Beyond 80 or so
an image is noise for all purposes, and a schedule such as the cosine, which goes on to 20,000, has
times there that cost steps and, worse, at which an eps-prediction does not determine x_0: its error
counts sigma / alpha times in x_0. Karras et al. 2022 (table 1, j_0 = 8) start that schedule at 80
too.
"""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field

from sfumato.core.config import PositiveFloat, component
from sfumato.core.errors import ConfigError
from sfumato.diffusion.noise_schedule import NoiseSchedule, TimeGrid, Times

SIGMA_MAX = 80.0
"""Where sampling starts, in sigma / alpha, on a grid that is spaced by it (Karras et al. 2022)."""
CONTINUOUS_SIGMA_MIN = 0.002
"""The last noise level before clean data on a continuous schedule (Karras et al. 2022)."""


class SamplingGrid(ABC):
    """Chooses the times of a sampler."""

    kind: str

    @abstractmethod
    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        """`steps` + 1 falling times, the last of them 0 (clean data).

        Raises:
            ConfigError: the schedule has too few noise levels, or none of the kind asked for.
        """


@component
class UniformGrid(SamplingGrid):
    """Evenly from the noise end to the first noise level, then to clean data.

    On a discrete schedule these are steps from T to 1, rounded, both included (Improved DDPM's
    respacing; `linspace` in diffusers). On a continuous one there is no first noise level, and the
    grid is `steps` equal intervals of [0, 1].

    Args:
        sigma_max: start at this sigma / alpha; None (or more than the schedule has) is t = 1.
    """

    kind: Literal["uniform"] = "uniform"
    sigma_max: PositiveFloat | None = None

    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        if schedule.table is None:
            return _equal_intervals(_start(schedule, self.sigma_max), steps)
        first = _first_level(schedule, steps, self.sigma_max)
        visited = torch.linspace(first, 1, steps, dtype=torch.float64).round()
        return _then_clean(visited / schedule.table.num_steps)


@component
class LeadingGrid(SamplingGrid):
    """Every (T // steps)-th step, counted from the first: 1, 1 + stride, ... (Song et al. 2021).

    It stops short of T; Lin et al. 2024 show the harm. On a continuous schedule there is no such
    thing.

    Args:
        sigma_max: as in `uniform`; the steps up to there are counted in place of T.
    """

    kind: Literal["leading"] = "leading"
    sigma_max: PositiveFloat | None = None

    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        if schedule.table is None:
            raise ConfigError(
                "grid leading counts the steps of a discrete schedule; "
                "on a continuous one use uniform, log_snr or karras"
            )
        stride = _first_level(schedule, steps, self.sigma_max) // steps
        visited = 1 + torch.arange(steps - 1, -1, -1, dtype=torch.float64) * stride
        return _then_clean(visited / schedule.table.num_steps)


@component
class TrailingGrid(SamplingGrid):
    """Equal intervals of [0, 1], counted from the noise end (Lin et al. 2024, table 2).

    On a discrete schedule the times are rounded to its grid.

    Args:
        sigma_max: as in `uniform`; the intervals then are of [0, the time of that level].
        last: where the last step leads: to clean data, or to the first noise level, whose x is
            taken for the image (`final_sigmas_type="sigma_min"` in diffusers).
    """

    kind: Literal["trailing"] = "trailing"
    sigma_max: PositiveFloat | None = None
    last: Literal["clean", "first_level"] = "clean"

    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        if schedule.table is None:
            times = _equal_intervals(_start(schedule, self.sigma_max), steps)
        else:
            first = _first_level(schedule, steps, self.sigma_max)
            times = _equal_intervals(first, steps).round() / schedule.table.num_steps
        if self.last == "first_level":
            times[-1] = _first_time(schedule)
            if times[-1] > times[-2] * (1 - 1e-9):
                raise ConfigError(
                    f"grid trailing with {steps} steps is at the first noise level one step before "
                    "its end already; ask for fewer sampler.steps, or set "
                    "sampler.grid.last = clean"
                )
        return times


@component
class LogSnrGrid(SamplingGrid):
    """Evenly in log-SNR, then to clean data (Lu et al. 2022, DPM-Solver).

    Args:
        sigma_max: start at this sigma / alpha, or at the schedule's end if that is less.
        sigma_min: the last noise level. None is the schedule's first, or 0.002 if it is continuous.
        snap: move the times to the grid of a discrete schedule.
    """

    kind: Literal["log_snr"] = "log_snr"
    sigma_max: PositiveFloat = SIGMA_MAX
    sigma_min: PositiveFloat | None = None
    snap: bool = False

    def __post_init__(self) -> None:
        _check_window(self.kind, self.sigma_min, self.sigma_max)

    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        low, high = _window(schedule, self.sigma_min, self.sigma_max)
        sigma = torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64).exp()
        return _times_of(schedule, sigma, self.snap)


@component
class KarrasGrid(SamplingGrid):
    """Evenly in sigma^(1 / rho), then to clean data (Karras et al. 2022, eq. 5).

    Args:
        rho: larger puts more of the steps near the data.
        sigma_max, sigma_min, snap: as in `log_snr`.
    """

    kind: Literal["karras"] = "karras"
    rho: PositiveFloat = 7.0
    sigma_max: PositiveFloat = SIGMA_MAX
    sigma_min: PositiveFloat | None = None
    snap: bool = False

    def __post_init__(self) -> None:
        _check_window(self.kind, self.sigma_min, self.sigma_max)

    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        low, high = _window(schedule, self.sigma_min, self.sigma_max)
        ends = high ** (1 / self.rho), low ** (1 / self.rho)
        sigma = torch.linspace(*ends, steps, dtype=torch.float64) ** self.rho
        return _times_of(schedule, sigma, self.snap)


AnyGrid = Annotated[
    UniformGrid | LeadingGrid | TrailingGrid | LogSnrGrid | KarrasGrid,
    Field(discriminator="kind"),
]


def _equal_intervals(start: float, steps: int) -> TimeGrid:
    return torch.linspace(start, 0, steps + 1, dtype=torch.float64)


def _then_clean(times: TimeGrid) -> TimeGrid:
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


def _start(schedule: NoiseSchedule, sigma_max: float | None) -> float:
    """The time at which a grid starts: that of the noise level, or 1."""
    if sigma_max is None or sigma_max >= noise_end(schedule):
        return 1.0
    log_snr = torch.tensor(-2 * math.log(sigma_max), dtype=torch.float64)
    if schedule.table is not None:
        return schedule.table.nearest_time(log_snr).item()
    return schedule.time(log_snr).item()


def noise_end(schedule: NoiseSchedule) -> float:
    """sigma / alpha at t = 1; infinite where that is pure noise."""
    return (-schedule.log_snr(torch.ones((), dtype=torch.float64)) / 2).exp().item()


def _first_level(schedule: NoiseSchedule, steps: int, sigma_max: float | None) -> int:
    """The step of a discrete schedule, 1..T, at which a grid of as many steps starts."""
    assert schedule.table is not None
    T = schedule.table.num_steps
    first = round(T * _start(schedule, sigma_max))
    if steps > first:
        raise ConfigError(
            f"sampler.steps is {steps}, but the schedule has {first} noise levels"
            + (f" up to sigma / alpha = {sigma_max:g}" if first < T else "")
            + f"; ask for at most {first} steps"
        )
    return first


def _check_window(kind: str, sigma_min: float | None, sigma_max: float) -> None:
    if sigma_min is not None and sigma_min >= sigma_max:
        raise ValueError(f"grid {kind} needs sigma_min < sigma_max, got {sigma_min}, {sigma_max}")


def _window(
    schedule: NoiseSchedule, sigma_min: float | None, sigma_max: float
) -> tuple[float, float]:
    """The noise levels sigma / alpha between which the grid runs."""
    sigma_min = _sigma_min(schedule) if sigma_min is None else sigma_min
    high = min(sigma_max, noise_end(schedule))
    if sigma_min >= high:
        raise ConfigError(
            f"the grid ends at sigma / alpha = {sigma_min:.3g} and starts at {high:.3g}, which is "
            "no more; set a larger sampler.grid.sigma_max or a smaller sigma_min"
        )
    return sigma_min, high


def _first_time(schedule: NoiseSchedule) -> Times:
    """The time of the first noise level: 1 / T, or where sigma / alpha = 0.002."""
    if schedule.table is not None:
        return torch.tensor(1 / schedule.table.num_steps, dtype=torch.float64)
    return schedule.time(torch.tensor(-2 * math.log(CONTINUOUS_SIGMA_MIN), dtype=torch.float64))


def _sigma_min(schedule: NoiseSchedule) -> float:
    """The first noise level, in sigma / alpha."""
    return (-schedule.log_snr(_first_time(schedule)) / 2).exp().item()


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
