"""PNDM and iPNDM: Adams-Bashforth on the predicted noise, as if the steps were equal."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from sfumato.core.config import PositiveInt, component
from sfumato.core.images import Images
from sfumato.diffusion.denoiser import AnyClip, Denoised, NoClip, NoiseLevels
from sfumato.diffusion.grid import AnyGrid, KarrasGrid
from sfumato.diffusion.noise_schedule import Times, Transition
from sfumato.diffusion.samplers.sampler import Route, Sampler, Step

ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
"""Weights of the last values, newest first, by order."""


@component
class IPNDMSampler(Sampler):
    """DDIM steps with eps extrapolated from up to four values; the first steps have fewer.

    Source: Zhang & Chen 2023, appendix H.2 (the method is Liu et al.'s without its warm-up).
    NFE: `steps`. Order: `order` where the steps are equal in sigma / alpha, else 2.
    """

    kind: Literal["ipndm"] = "ipndm"
    steps: PositiveInt = 20
    order: Literal[1, 2, 3, 4] = 4
    grid: AnyGrid = KarrasGrid()
    clip: AnyClip = NoClip()

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        past: list[Images] = []
        for t, s in pairwise(route.times):
            denoised = route.denoised(x, t)
            past = [denoised.eps, *past[: self.order - 1]]
            x = _transfer(route.schedule.transition(s, t), denoised, _extrapolated(past))
            yield x, denoised.x_0


@component
class PNDMSampler(Sampler):
    """Three Runge-Kutta steps of order 4, then Adams-Bashforth of order 4.

    Source: Liu et al. 2022, algorithm 2. NFE: `steps` + 9. Order: as `ipndm`.
    """

    kind: Literal["pndm"] = "pndm"
    steps: PositiveInt = 20
    grid: AnyGrid = KarrasGrid()
    clip: AnyClip = NoClip()

    def __post_init__(self) -> None:
        if self.steps < 4:
            raise ValueError(
                f"pndm needs steps >= 4 (three warm-up steps and one more), got {self.steps}; "
                "use ipndm for fewer"
            )

    @property
    def nfe(self) -> int:
        return self.steps + 9

    @property
    def leaves_grid(self) -> bool:
        return True

    def check(self, model: NoiseLevels) -> None:
        """Refuse a schedule with a gap that the warm-up would have to enter."""
        super().check(model)
        start = self.grid(model.schedule, self.steps)[0]
        if model.schedule.log_snr(start).isinf():
            raise ValueError(
                "pndm cannot start from pure noise: its Runge-Kutta steps change eps where x_0 "
                "cannot be found from it; use ipndm"
            )

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        past: list[Images] = []
        for step, (t, s) in enumerate(pairwise(route.times)):
            denoised = route.denoised(x, t)
            past = [denoised.eps, *past[:3]]
            eps = _extrapolated(past)
            if step < 3:
                eps = _runge_kutta(route, denoised, t, s)
            x = _transfer(route.schedule.transition(s, t), denoised, eps)
            yield x, denoised.x_0


def _extrapolated(past: Sequence[Images]) -> Images:
    weights = ADAMS_BASHFORTH[len(past)]
    total = weights[0] * past[0]
    for weight, eps in zip(weights[1:], past[1:], strict=True):
        total = total + weight * eps
    return total


def _transfer(step: Transition, denoised: Denoised, eps: Images) -> Images:
    """DDIM's step from t to s with another eps than the one just predicted (Liu et al., eq. 11)."""
    x_s = step.alpha_s * denoised.x_0 + step.sigma_s * denoised.eps
    if step.alpha_t == 0:  # pure noise, where every eps but the predicted one contradicts x
        return x_s
    slope = step.sigma_s - step.alpha_s * step.sigma_t / step.alpha_t
    return x_s + slope * (eps - denoised.eps)


def _runge_kutta(route: Route, first: Denoised, t: Times, s: Times) -> Images:
    """The classic mean of four slopes, each found by transfers from x (Liu et al., eq. 13)."""
    middle = (t + s) / 2
    half = route.schedule.transition(middle, t)
    e_1 = first.eps
    e_2 = route.denoised(_transfer(half, first, e_1), middle).eps
    e_3 = route.denoised(_transfer(half, first, e_2), middle).eps
    whole = route.schedule.transition(s, t)
    e_4 = route.denoised(_transfer(whole, first, e_3), s).eps
    return (e_1 + 2 * e_2 + 2 * e_3 + e_4) / 6
