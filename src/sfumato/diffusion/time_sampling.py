"""The training distribution of t: at which noise levels the network practises."""

from abc import ABC, abstractmethod
from typing import Literal

import torch

from sfumato.core.config import component
from sfumato.core.noise import RandomStream
from sfumato.diffusion.broadcast import Times
from sfumato.diffusion.schedule import NoiseSchedule


class TimeSampling(ABC):
    """Draws one time an image. (One time a batch is a known fault: slower, and worse.)"""

    kind: str

    @abstractmethod
    def __call__(self, schedule: NoiseSchedule, noise: RandomStream) -> Times:
        """Times in (0, 1], one for each image of `noise`; on the grid of a discrete schedule."""


@component
class UniformTimes(TimeSampling):
    """Every time alike: k / T with k from 1 to T, or all of (0, 1] on a continuous schedule."""

    kind: Literal["uniform"] = "uniform"

    def __call__(self, schedule: NoiseSchedule, noise: RandomStream) -> Times:
        if schedule.table is None:
            return 1 - noise.uniform()  # uniform() may be 0, where there is nothing to learn
        T = schedule.table.num_steps
        return (noise.integers(T) + 1).to(torch.float64) / T


AnyTimeSampling = UniformTimes
