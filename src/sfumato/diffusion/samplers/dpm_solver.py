"""DPM-Solver++: exponential integrators of the predicted x_0 in lambda = log(alpha / sigma).

The exact solution is x_s = sigma_s / sigma_t x_t + sigma_s integral e^lambda x_0(lambda) d lambda;
the methods differ in how they guess x_0 along the step (Lu et al. 2022b, eq. 8).
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch

from sfumato.core.config import PositiveInt, component
from sfumato.core.images import Images
from sfumato.core.noise import RandomStream
from sfumato.diffusion.denoiser import AnyClip, NoClip, NoiseLevels
from sfumato.diffusion.grid import AnyGrid, LogSnrGrid
from sfumato.diffusion.noise_schedule import Times, Transition
from sfumato.diffusion.samplers.sampler import Route, Sampler, Step

Order = Literal[1, 2, 3]
Past = list[tuple[Times, Images]]
"""(lambda, x_0) at the visited times, newest first."""


@component
class DPMSolverMultistepSampler(Sampler):
    """DPM-Solver++(2M), (3M), and the stochastic 2M-SDE: x_0 extrapolated from the last steps.

    Args:
        order: 1 is DDIM.
        halved_curvature: compute the third order as the authors' code does, and diffusers after it:
            half of its curvature term is missing, which leaves it of order 2. Published results of
            3M were obtained so.
        stochastic: solve the reverse SDE instead (orders 1 and 2), adding fresh noise.
        lower_order_final: lower the order in the last steps, which steadies few-step sampling.

    Source: Lu et al. 2022b, algorithm 2 and appendix; Lu et al.'s 2M-SDE, eq. 18.
    NFE: `steps`. Order: `order` (in the weak sense 1 when stochastic). The step to clean data is
    of order 1.
    """

    kind: Literal["dpm_solver_multistep"] = "dpm_solver_multistep"
    steps: PositiveInt = 20
    order: Order = 2
    halved_curvature: bool = False
    stochastic: bool = False
    lower_order_final: bool = True
    grid: AnyGrid = LogSnrGrid()
    clip: AnyClip = NoClip()

    def __post_init__(self) -> None:
        if self.stochastic and self.order == 3:
            raise ValueError("dpm_solver_multistep: the stochastic solver has order 1 or 2, not 3")

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        schedule = route.schedule
        lambdas = schedule.log_snr(route.times) / 2
        past: Past = []
        for step, (t, s) in enumerate(pairwise(route.times)):
            denoised = route.denoised(x, t)
            # lambda cannot be extrapolated from pure noise.
            past = [(lambdas[step], denoised.x_0), *(p for p in past[:2] if p[0].isfinite())]
            order: int = self.order if s > 0 else 1
            if self.lower_order_final:
                order = min(order, len(route.times) - 1 - step)
            h = lambdas[step + 1] - lambdas[step]
            between = schedule.transition(s, t)
            if self.stochastic:
                x = _stochastic_step(between, x, h, past[:order], route.noise)
            else:
                x = _step(between, x, h, past[:order], self.halved_curvature)
            yield x, denoised.x_0


def _step(step: Transition, x: Images, h: Times, past: Past, halved_curvature: bool) -> Images:
    """From t to s = t + h in lambda, with x_0 known at the newest `len(past)` times."""
    alpha_s, phi_1 = step.alpha_s, torch.expm1(-h)
    x_s = step.sigma_s / step.sigma_t * x - alpha_s * phi_1 * past[0][1]
    if len(past) == 1:
        return x_s
    (l_0, d_0), (l_1, d_1) = past[:2]
    r_0 = (l_0 - l_1) / h
    slope = (d_0 - d_1) / r_0
    if len(past) == 2:
        return x_s - alpha_s * phi_1 / 2 * slope
    l_2, d_2 = past[2]
    r_1 = (l_1 - l_2) / h
    older = (d_1 - d_2) / r_1
    half_curvature = (slope - older) / (r_0 + r_1)  # a divided difference: x_0'' / 2
    slope = slope + r_0 * half_curvature
    curvature = half_curvature * (1 if halved_curvature else 2)
    phi_2 = phi_1 / h + 1
    phi_3 = phi_2 / h - 0.5
    return x_s + alpha_s * phi_2 * slope - alpha_s * phi_3 * curvature


def _stochastic_step(
    step: Transition, x: Images, h: Times, past: Past, noise: RandomStream
) -> Images:
    """The same for the reverse SDE, whose noise decays twice as fast."""
    added = -torch.expm1(-2 * h)
    x_0 = past[0][1]
    if len(past) > 1:
        x_0 = x_0 + (past[0][1] - past[1][1]) * h / (past[0][0] - past[1][0]) / 2
    x_s = step.sigma_s / step.sigma_t * (-h).exp() * x + step.alpha_s * added * x_0
    if step.sigma_s == 0:
        return x_s
    return x_s + step.sigma_s * added.sqrt() * noise.normal_like(x)


@component
class DPMSolverSinglestepSampler(Sampler):
    """DPM-Solver++(2S) and (3S): intermediate evaluations instead of a memory.

    Source: Lu et al. 2022b, algorithm 1 (r = 1/2); the third order as in DPM-Solver-3 (Lu et al.
    2022a, algorithm 2, r = 1/3, 2/3) for x_0.
    NFE: `order` (`steps` - 1) + 1. Order: `order`; the step to clean data is of order 1.
    """

    kind: Literal["dpm_solver_singlestep"] = "dpm_solver_singlestep"
    steps: PositiveInt = 10
    order: Order = 2
    grid: AnyGrid = LogSnrGrid()
    clip: AnyClip = NoClip()

    @property
    def nfe(self) -> int:
        return self.order * (self.steps - 1) + 1

    @property
    def leaves_grid(self) -> bool:
        return True

    def check(self, model: NoiseLevels) -> None:
        """Refuse to start from pure noise."""
        super().check(model)
        start = self.grid(model.schedule, self.steps)[0]
        if self.order > 1 and model.schedule.log_snr(start).isinf():
            raise ValueError(
                "dpm_solver_singlestep halves the first step in log-SNR, which is infinite at "
                "pure noise; use dpm_solver_multistep, or a grid with sigma_max"
            )

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        for t, s in pairwise(route.times):
            denoised = route.denoised(x, t)
            x = self._step(x, route, t, s, denoised.x_0)
            yield x, denoised.x_0

    def _step(self, x: Images, route: Route, t: Times, s: Times, x_0: Images) -> Images:
        schedule = route.schedule
        _, sigma_t = schedule.alpha_sigma(t)
        lambda_t = schedule.log_snr(t) / 2
        h = schedule.log_snr(s) / 2 - lambda_t

        def first_order(to: Times, part: float) -> Images:
            alpha, sigma = schedule.alpha_sigma(to)
            return sigma / sigma_t * x - alpha * torch.expm1(-part * h) * x_0

        if self.order == 1 or s == 0:
            return first_order(s, 1.0)
        alpha_s, _ = schedule.alpha_sigma(s)
        if self.order == 2:
            middle = schedule.time(2 * (lambda_t + h / 2))
            x_0_middle = route.denoised(first_order(middle, 0.5), middle).x_0
            return first_order(s, 1.0) - alpha_s * torch.expm1(-h) * (x_0_middle - x_0)
        r_1, r_2 = 1 / 3, 2 / 3
        third = schedule.time(2 * (lambda_t + r_1 * h))
        x_0_third = route.denoised(first_order(third, r_1), third).x_0
        two_thirds = schedule.time(2 * (lambda_t + r_2 * h))
        alpha, _ = schedule.alpha_sigma(two_thirds)
        phi = torch.expm1(-r_2 * h) / (r_2 * h) + 1
        guess = first_order(two_thirds, r_2) + r_2 / r_1 * alpha * phi * (x_0_third - x_0)
        x_0_two_thirds = route.denoised(guess, two_thirds).x_0
        phi_2 = torch.expm1(-h) / h + 1
        return first_order(s, 1.0) + alpha_s * phi_2 / r_2 * (x_0_two_thirds - x_0)
