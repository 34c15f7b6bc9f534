"""The training distribution of t: at which noise levels the network trains."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sfumato.core.config import PositiveFloat, PositiveFraction, PositiveInt, component
from sfumato.core.distributed import all_reduce_sum
from sfumato.core.noise import RandomStream
from sfumato.diffusion.noise_schedule import NoiseSchedule, Times


class TimeDraw(NamedTuple):
    """One time per image, and the factor of its loss."""

    t: Times
    weight: Times


class TimeSampler(nn.Module):
    """Draws one time per image. (One time per batch is a known fault: slower, and worse.)

    Most are a fixed distribution, which is part of the objective: the weights are 1. A sampler that
    learns overrides `forward` and `observe`; its buffers are saved with the model.
    """

    def __init__(self, distribution: "TimeDistribution", schedule: NoiseSchedule) -> None:
        super().__init__()
        self.distribution = distribution
        self.schedule = schedule

    def forward(self, noise: RandomStream) -> TimeDraw:
        """Times in (0, 1], one for each image of `noise`; on the grid of a discrete schedule."""
        t = self.distribution(self.schedule, noise)
        return TimeDraw(t, torch.ones_like(t))

    def observe(self, t: Times, loss: Float[Tensor, " B"]) -> None:
        """Learn from the losses at the times t."""


class TimeDistribution(ABC):
    """A distribution over times."""

    kind: str
    needs_steps: ClassVar[bool] = False
    """Whether it keeps a record of each step, and so needs a discrete schedule."""

    @abstractmethod
    def __call__(self, schedule: NoiseSchedule, noise: RandomStream) -> Times:
        """Times in (0, 1], one for each image of `noise`; on the grid of a discrete schedule."""

    def check(self, schedule: NoiseSchedule) -> None:
        """Raise ValueError, with the reason, if this has no meaning on `schedule`."""
        if self.needs_steps and schedule.table is None:
            raise ValueError(
                f"time_sampling {self.kind} keeps the losses of each step, which a continuous "
                "schedule does not have; use uniform"
            )

    def build(self, schedule: NoiseSchedule) -> TimeSampler:
        """The sampler that a model trains with."""
        return TimeSampler(self, schedule)


@component
class UniformTimes(TimeDistribution):
    """Uniform in time: k / T with k from 1 to T, or all of (0, 1] on a continuous schedule.

    Args:
        stratified: spread the times of a step evenly, one in each of as many equal parts of the
            distribution as there are images. The same for the distributions below.
    """

    kind: Literal["uniform"] = "uniform"
    stratified: bool = False

    def __call__(self, schedule: NoiseSchedule, noise: RandomStream) -> Times:
        if schedule.table is None:
            # uniform() may be 0, where there is nothing to learn
            return noise.stratified() if self.stratified else 1 - noise.uniform()
        T = schedule.table.num_steps
        drawn = (noise.stratified() * T).long() if self.stratified else noise.integers(T)
        return (drawn + 1).to(torch.float64) / T


@component
class LogNormalSigma(TimeDistribution):
    """log(sigma / alpha) is normal (Karras et al. 2022, table 1: mean -1.2, std 1.2).

    Levels outside the schedule's range fall on its nearest end.
    """

    kind: Literal["log_normal_sigma"] = "log_normal_sigma"
    mean: float = -1.2
    std: PositiveFloat = 1.2
    stratified: bool = False

    def __call__(self, schedule: NoiseSchedule, noise: RandomStream) -> Times:
        log_snr = -2 * (self.mean + self.std * _normal(noise, self.stratified))
        if schedule.table is not None:
            return schedule.table.nearest_time(log_snr)
        return schedule.time(log_snr).clamp(max=1)


@component
class LogitNormalTimes(TimeDistribution):
    """log(t / (1 - t)) is normal: most practice in the middle (Esser et al. 2024, section 3.1)."""

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: PositiveFloat = 1.0
    stratified: bool = False

    def __call__(self, schedule: NoiseSchedule, noise: RandomStream) -> Times:
        t = (self.mean + self.std * _normal(noise, self.stratified)).sigmoid()
        if schedule.table is None:
            return t
        T = schedule.table.num_steps
        return (t * T).ceil().clamp(1, T) / T


@component
class ImportanceTimes(TimeDistribution):
    """Trains each step in proportion to the root mean square of its recent losses.

    The losses are divided by the probability, so the expected objective is that of uniform times,
    with less variance: the remedy for the noisy gradients of the variational bound.

    Args:
        memory: about how many losses of a step are remembered; until each step has that many, times
            are uniform.
        uniform_share: the part of the times that stays uniform.

    Source: Nichol & Dhariwal 2021, section 3.3.
    """

    needs_steps: ClassVar[bool] = True
    kind: Literal["importance"] = "importance"
    memory: PositiveInt = 10
    uniform_share: PositiveFraction = 0.001

    def __call__(self, schedule: NoiseSchedule, noise: RandomStream) -> Times:
        """Uniform, as before anything was learned."""
        return UniformTimes()(schedule, noise)

    def build(self, schedule: NoiseSchedule) -> "ImportanceSampler":
        """A sampler that remembers losses."""
        return ImportanceSampler(self, schedule)


class ImportanceSampler(TimeSampler):
    """Draws times as ImportanceTimes describes; the same on every process."""

    seen: Tensor
    second_moment: Tensor

    def __init__(self, distribution: ImportanceTimes, schedule: NoiseSchedule) -> None:
        super().__init__(distribution, schedule)
        self.settings = distribution
        assert schedule.table is not None, "check() refuses continuous schedules"
        self.register_buffer("seen", torch.zeros(schedule.table.num_steps))
        self.register_buffer("second_moment", torch.zeros(schedule.table.num_steps))

    def probabilities(self) -> Times:
        """The probability of each step k = 1..T."""
        T = len(self.seen)
        uniform = torch.full((T,), 1 / T, dtype=torch.float64)
        if (self.seen < self.settings.memory).any():
            return uniform
        wanted = self.second_moment.double().cpu().sqrt()
        share = self.settings.uniform_share
        return (1 - share) * wanted / wanted.sum() + share * uniform

    def forward(self, noise: RandomStream) -> TimeDraw:
        """Times on the grid, with weights 1 / (T p)."""
        p = self.probabilities()
        T = len(p)
        k = torch.searchsorted(p.cumsum(0), noise.uniform(), right=True).clamp(max=T - 1)
        return TimeDraw((k + 1).to(torch.float64) / T, 1 / (T * p[k]))

    def observe(self, t: Times, loss: Float[Tensor, " B"]) -> None:
        """Move the second moments towards the new losses; those of all processes count."""
        T = len(self.seen)
        k = (t * T).round().long().sub(1).to(loss.device)
        new = torch.zeros(2, T, device=loss.device)
        new[0].index_add_(0, k, torch.ones_like(loss, dtype=new.dtype))
        new[1].index_add_(0, k, loss.detach().to(new.dtype) ** 2)
        count, squares = all_reduce_sum(new)
        self.seen += count
        window = self.seen.minimum(count.clamp(min=self.settings.memory)).clamp(min=1)
        self.second_moment.lerp_(squares / count.clamp(min=1), count / window)


def _normal(noise: RandomStream, stratified: bool) -> Times:
    """Standard normal numbers, one per image."""
    if not stratified:
        return noise.normal().double()
    quantiles: Tensor = torch.special.ndtri(noise.stratified())
    return quantiles


AnyTimeSampling = Annotated[
    UniformTimes | LogNormalSigma | LogitNormalTimes | ImportanceTimes,
    Field(discriminator="kind"),
]
