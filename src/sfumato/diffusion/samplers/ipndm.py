"""PNDM and iPNDM: Adams-Bashforth on the predicted noise, as if the steps were equal."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from sfumato.core.config import PositiveInt, component
from sfumato.core.images import Images, Labels
from sfumato.core.noise import RandomStream
from sfumato.diffusion.denoiser import AnyClip, Denoised, Denoiser, NoClip, NoiseLevels
from sfumato.diffusion.grid import AnyGrid, KarrasGrid
from sfumato.diffusion.noise_schedule import NoiseSchedule, TimeGrid, Times
from sfumato.diffusion.samplers.sampler import Sampler, Step

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

    def walk(
        self,
        denoiser: Denoiser,
        x: Images,
        times: TimeGrid,
        labels: Labels | None,
        noise: RandomStream,
    ) -> Iterator[Step]:
        past: list[Images] = []
        for t, s in pairwise(times):
            denoised = denoiser(x, t, labels)
            past = [denoised.eps, *past[: self.order - 1]]
            x = _transfer(denoiser.schedule, denoised, _extrapolated(past), t, s)
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

    def walk(
        self,
        denoiser: Denoiser,
        x: Images,
        times: TimeGrid,
        labels: Labels | None,
        noise: RandomStream,
    ) -> Iterator[Step]:
        past: list[Images] = []
        for step, (t, s) in enumerate(pairwise(times)):
            denoised = denoiser(x, t, labels)
            past = [denoised.eps, *past[:3]]
            eps = _extrapolated(past)
            if step < 3:
                eps = _runge_kutta(denoiser, denoised, t, s, labels)
            x = _transfer(denoiser.schedule, denoised, eps, t, s)
            yield x, denoised.x_0


def _extrapolated(past: Sequence[Images]) -> Images:
    weights = ADAMS_BASHFORTH[len(past)]
    total = weights[0] * past[0]
    for weight, eps in zip(weights[1:], past[1:], strict=True):
        total = total + weight * eps
    return total


def _transfer(
    schedule: NoiseSchedule, denoised: Denoised, eps: Images, t: Times, s: Times
) -> Images:
    """DDIM's step from t to s with another eps than the one just predicted (Liu et al., eq. 11)."""
    alpha_t, sigma_t = schedule.alpha_sigma(t)
    alpha_s, sigma_s = schedule.alpha_sigma(s)
    step = alpha_s * denoised.x_0 + sigma_s * denoised.eps
    if alpha_t == 0:  # pure noise, where every eps but the predicted one contradicts x
        return step
    return step + (sigma_s - alpha_s * sigma_t / alpha_t) * (eps - denoised.eps)


def _runge_kutta(
    denoiser: Denoiser, first: Denoised, t: Times, s: Times, labels: Labels | None
) -> Images:
    """The classic mean of four slopes, each found by transfers from x (Liu et al., eq. 13)."""
    schedule, middle = denoiser.schedule, (t + s) / 2
    e_1 = first.eps
    e_2 = denoiser(_transfer(schedule, first, e_1, t, middle), middle, labels).eps
    e_3 = denoiser(_transfer(schedule, first, e_2, t, middle), middle, labels).eps
    e_4 = denoiser(_transfer(schedule, first, e_3, t, s), s, labels).eps
    return (e_1 + 2 * e_2 + 2 * e_3 + e_4) / 6
