"""Euler and Heun steps of the probability-flow ODE, with optional churn (EDM)."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from sfumato.core.config import NonNegativeFloat, PositiveInt, component
from sfumato.core.images import Images
from sfumato.core.noise import RandomStream
from sfumato.diffusion.denoiser import AnyClip, Denoised, NoClip
from sfumato.diffusion.grid import AnyGrid, KarrasGrid
from sfumato.diffusion.noise_schedule import NoiseSchedule, Times
from sfumato.diffusion.samplers.sampler import Route, Sampler, Step


@component
class Churn:
    """Before a step, noise is added that the step then has to remove: errors are forgotten.

    Args:
        amount: S_churn, spread over the steps; 0 is off.
        sigma_min, sigma_max: noise levels sigma / alpha between which it acts. None: no limit.
        noise_scale: S_noise, the standard deviation of what is added.

    Source: Karras et al. 2022, algorithm 2.
    """

    amount: NonNegativeFloat = 0.0
    sigma_min: float = 0.0
    sigma_max: float | None = None
    noise_scale: float = 1.0

    def __call__(
        self, schedule: NoiseSchedule, x: Images, t: Times, steps: int, noise: RandomStream
    ) -> tuple[Images, Times]:
        """x and t, moved to a higher noise level."""
        sigma = (-schedule.log_snr(t) / 2).exp().item()
        largest = math.inf if self.sigma_max is None else self.sigma_max
        if self.amount == 0 or math.isinf(sigma) or not self.sigma_min <= sigma <= largest:
            return x, t
        raised = sigma * (1 + min(self.amount / steps, math.sqrt(2) - 1))
        end = (-schedule.log_snr(torch.ones_like(t)) / 2).exp().item()
        raised = min(raised, end)  # the schedule knows no higher noise
        higher = schedule.time(torch.full_like(t, -2 * math.log(raised))).clamp(max=1)
        added = math.sqrt(max(raised**2 - sigma**2, 0)) * self.noise_scale
        alpha, alpha_higher = schedule.alpha_sigma(t)[0], schedule.alpha_sigma(higher)[0]
        return alpha_higher * (x / alpha + added * noise.normal_like(x)), higher


@component
class EulerSampler(Sampler):
    """First order in sigma / alpha, which is DDIM with eta = 0, and in t for rectified flow.

    Source: Karras et al. 2022, algorithm 2 without the correction. NFE: `steps`. Order: 1.
    """

    kind: Literal["euler"] = "euler"
    steps: PositiveInt = 50
    churn: Churn = Churn()
    grid: AnyGrid = KarrasGrid()
    clip: AnyClip = NoClip()

    @property
    def leaves_grid(self) -> bool:
        return self.churn.amount > 0

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        schedule = route.schedule
        for t, s in pairwise(route.times):
            x, t = self.churn(schedule, x, t, self.steps, route.noise)
            denoised = route.denoised(x, t)
            x = euler_step(schedule, denoised, s)
            yield x, denoised.x_0


@component
class HeunSampler(Sampler):
    """Second order: an Euler step, corrected by the slope at its end; Euler to clean data.

    The slopes are averaged in the variable sigma / alpha (EDM's form). Where the schedule reaches
    pure noise that variable is infinite, and sigma / (alpha + sigma) takes its place, which is
    rectified flow's time.

    Source: Karras et al. 2022, algorithms 1 and 2. NFE: 2 `steps` - 1. Order: 2.
    """

    kind: Literal["heun"] = "heun"
    steps: PositiveInt = 18
    churn: Churn = Churn()
    grid: AnyGrid = KarrasGrid()
    clip: AnyClip = NoClip()

    @property
    def nfe(self) -> int:
        return 2 * self.steps - 1

    @property
    def leaves_grid(self) -> bool:
        return self.churn.amount > 0

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        schedule = route.schedule
        for t, s in pairwise(route.times):
            x, t = self.churn(schedule, x, t, self.steps, route.noise)
            first = route.denoised(x, t)
            x = euler_step(schedule, first, s)
            if s > 0:
                x = x + _correction(schedule, t, s, first, route.denoised(x, s))
            yield x, first.x_0


def euler_step(schedule: NoiseSchedule, denoised: Denoised, s: Times) -> Images:
    """x_s from x_0 and eps at an earlier time."""
    alpha_s, sigma_s = schedule.alpha_sigma(s)
    return alpha_s * denoised.x_0 + sigma_s * denoised.eps


def _correction(
    schedule: NoiseSchedule, t: Times, s: Times, first: Denoised, second: Denoised
) -> Tensor:
    """Half a step times the difference of the slopes at its ends, in the units of x_s."""
    alpha_t, sigma_t = schedule.alpha_sigma(t)
    alpha_s, sigma_s = schedule.alpha_sigma(s)
    difference = second.eps - first.eps
    if not schedule.reaches_pure_noise:  # d(x / alpha) / d(sigma / alpha) = eps
        return alpha_s * (sigma_s / alpha_s - sigma_t / alpha_t) / 2 * difference
    size_t, size_s = alpha_t + sigma_t, alpha_s + sigma_s
    difference = difference - (second.x_0 - first.x_0)  # d(x / size) / d(sigma / size) = eps - x_0
    return size_s * (sigma_s / size_s - sigma_t / size_t) / 2 * difference
