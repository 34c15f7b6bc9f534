"""UniPC: a predictor and a corrector of any order that share their evaluations."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from sfumato.core.config import PositiveInt, component
from sfumato.core.images import Images
from sfumato.diffusion.denoiser import AnyClip, NoClip
from sfumato.diffusion.grid import AnyGrid, LogSnrGrid
from sfumato.diffusion.noise_schedule import NoiseSchedule, Times
from sfumato.diffusion.samplers.dpm_solver import Past
from sfumato.diffusion.samplers.sampler import Route, Sampler, Step


@component
class UniPCSampler(Sampler):
    """Predicts x_s; once the denoiser has been asked there, corrects x_s with its answer.

    The corrector raises the order by one without another evaluation: the answer at the prediction
    serves as that at the corrected point too. This is the form for predicted x_0, in
    lambda = log(alpha / sigma).

    Args:
        order: of the predictor, 1 to 3.
        variant: B(h) = h ("bh1", for unguided sampling) or e^h - 1 ("bh2").
        corrector: False leaves the predictor UniP alone.
        lower_order_final: lower the order in the last steps.

    Source: Zhao et al. 2023, algorithms 1 and 2, eq. 7 to 9.
    NFE: `steps`. Order: `order`, with the corrector `order` + 1.
    """

    kind: Literal["unipc"] = "unipc"
    steps: PositiveInt = 20
    order: Literal[1, 2, 3] = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    corrector: bool = True
    lower_order_final: bool = True
    grid: AnyGrid = LogSnrGrid()
    clip: AnyClip = NoClip()

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        schedule = route.schedule
        lambdas = schedule.log_snr(route.times) / 2
        past: Past = []
        corrected, order = x, 1
        for step, (t, s) in enumerate(pairwise(route.times)):
            denoised = route.denoised(x, t)
            new = (lambdas[step], denoised.x_0)
            if step > 0 and self.corrector and past[0][0].isfinite():
                start = route.times[step - 1]
                x = self._advance(schedule, corrected, start, t, past[:order], new)
            past = [new, *(point for point in past[:2] if point[0].isfinite())]
            order = min(self.order, len(past)) if s > 0 else 1
            if self.lower_order_final:
                order = min(order, len(route.times) - 1 - step)
            corrected = x
            x = self._advance(schedule, corrected, t, s, past[:order], None)
            yield x, denoised.x_0

    def _advance(
        self,
        schedule: NoiseSchedule,
        x: Images,
        t: Times,
        s: Times,
        past: Past,
        new: tuple[Times, Images] | None,
    ) -> Images:
        """From t to s with x_0 at past times, and, when correcting, at s itself."""
        alpha_s, sigma_s = schedule.alpha_sigma(s)
        _, sigma_t = schedule.alpha_sigma(t)
        lambda_t, x_0 = past[0]
        h = schedule.log_snr(s) / 2 - lambda_t
        x_s = sigma_s / sigma_t * x - alpha_s * torch.expm1(-h) * x_0
        others = past[1:] if new is None else [*past[1:], new]
        if not others:
            return x_s
        nodes = torch.stack([(point - lambda_t) / h for point, _ in others])
        B = -h if self.variant == "bh1" else torch.expm1(-h)
        for weight, (_, other), node in zip(_weights(nodes, -h, B), others, nodes, strict=True):
            x_s = x_s - alpha_s * B * weight / node * (other - x_0)
        return x_s


def _weights(nodes: Float64[Tensor, " n"], h: Times, B: Times) -> Float64[Tensor, " n"]:
    """Solves sum_m a_m r_m^(k-1) = k! phi_{k+1}(h) h / B for k = 1..n (Zhao et al. 2023, eq. 8).

    With one node the paper sets a = 1/2, which has the same order whatever B.
    """
    if len(nodes) == 1:
        return torch.full((1,), 0.5, dtype=torch.float64)
    phi = torch.expm1(h) / h - 1  # h phi_2(h)
    right = []
    for k in range(1, len(nodes) + 1):
        right.append(phi * math.factorial(k) / B)
        phi = phi / h - 1 / math.factorial(k + 1)
    powers = torch.stack([nodes**k for k in range(len(nodes))])
    weights: Tensor = torch.linalg.solve(powers, torch.stack(right))
    return weights
