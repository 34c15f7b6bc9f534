"""Time grids: the times that a sampler visits, falling from 1 to 0."""

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field

from sfumato.core.config import component
from sfumato.core.errors import ConfigError
from sfumato.diffusion.broadcast import TimeGrid
from sfumato.diffusion.schedule import NoiseSchedule


class Grid(ABC):
    """Chooses the times of a sampler."""

    kind: str

    @abstractmethod
    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        """`steps` + 1 falling times, the last of them 0 (clean data).

        Raises:
            ConfigError: the schedule has fewer steps than are asked for.
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
            return torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        T = schedule.table.num_steps
        _check_steps(steps, T)
        visited = torch.linspace(T, 1, steps, dtype=torch.float64)
        return _then_clean(visited.round() / T)


@component
class TrailingGrid(Grid):
    """Equal intervals of [0, 1], counted from the noise end (Lin et al. 2024, table 2).

    On a discrete schedule the times are rounded to its grid.
    """

    kind: Literal["trailing"] = "trailing"

    def __call__(self, schedule: NoiseSchedule, steps: int) -> TimeGrid:
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        if schedule.table is None:
            return times
        T = schedule.table.num_steps
        _check_steps(steps, T)
        return (times * T).round() / T


def _check_steps(steps: int, T: int) -> None:
    if steps > T:
        raise ConfigError(
            f"sampler.steps is {steps}, but the schedule has {T} noise levels; "
            f"ask for at most {T} steps"
        )


def _then_clean(times: TimeGrid) -> TimeGrid:
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


AnyGrid = Annotated[UniformGrid | TrailingGrid, Field(discriminator="kind")]
