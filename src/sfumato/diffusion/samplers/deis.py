"""DEIS: the probability-flow ODE with eps extrapolated by a polynomial, integrated exactly."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from sfumato.core.config import PositiveInt, component
from sfumato.core.images import Images
from sfumato.diffusion.denoiser import AnyClip, NoClip
from sfumato.diffusion.grid import AnyGrid, LogSnrGrid
from sfumato.diffusion.noise_schedule import NoiseSchedule, Times
from sfumato.diffusion.samplers.sampler import Route, Sampler, Step

Basis = Literal["t", "rho", "log_rho"]
Levels = Float64[Tensor, "..."]


@component
class DEISSampler(Sampler):
    """x_s / alpha_s - x_t / alpha_t is the integral of eps over rho = sigma / alpha.

    eps is the polynomial through its last values, in t (tAB), rho (rhoAB) or log rho, which suits
    steps of equal log-SNR: there a polynomial in t can fail badly.

    Source: Zhang & Chen 2023, eqs. 14 and 15 and section 3.
    NFE: `steps`. Order: `order`. The step to clean data is of order 1.
    """

    kind: Literal["deis"] = "deis"
    steps: PositiveInt = 20
    order: Literal[1, 2, 3, 4] = 3
    basis: Basis = "log_rho"
    lower_order_final: bool = True
    grid: AnyGrid = LogSnrGrid()
    clip: AnyClip = NoClip()

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        schedule = route.schedule
        rho = (-schedule.log_snr(route.times) / 2).exp()
        past: list[tuple[Times, Images]] = []  # (rho, eps), newest first
        for step, (t, s) in enumerate(pairwise(route.times)):
            denoised = route.denoised(x, t)
            past = [(rho[step], denoised.eps), *(p for p in past[:3] if p[0].isfinite())]
            order: int = self.order if s > 0 else 1
            if self.lower_order_final:
                order = min(order, len(route.times) - 1 - step)
            alpha_s, sigma_s = schedule.alpha_sigma(s)
            # Were eps constant: DDIM. What the older values change is added to that.
            x = alpha_s * denoised.x_0 + sigma_s * denoised.eps
            nodes = torch.stack([point for point, _ in past[:order]])
            if len(nodes) > 1:
                weights = _weights(nodes, rho[step], rho[step + 1], self._basis_of(schedule))
                for weight, (_, eps) in zip(weights[1:], past[1:order], strict=True):
                    x = x + alpha_s * weight * (eps - denoised.eps)
            yield x, denoised.x_0

    def _basis_of(self, schedule: NoiseSchedule) -> Callable[[Levels], Levels]:
        """The variable of the polynomial, as a function of rho."""
        match self.basis:
            case "t":
                return lambda rho: schedule.time(-2 * rho.log())
            case "rho":
                return lambda rho: rho
            case "log_rho":
                return torch.log


def _weights(
    nodes: Float64[Tensor, " n"], start: Times, end: Times, basis: Callable[[Levels], Levels]
) -> Float64[Tensor, " n"]:
    """The integrals over rho, from start to end, of the Lagrange polynomials through `nodes`.

    Gauss-Legendre in log rho: exact to rounding where the basis is smooth.
    """
    points, quadrature = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(32))
    half = (end.log() - start.log()) / 2
    rho = (start.log() + half * (1 + points)).exp()
    at, known = basis(rho), basis(nodes)
    weights = []
    for j in range(len(nodes)):
        others = known[torch.arange(len(nodes)) != j]
        lagrange = ((at[:, None] - others) / (known[j] - others)).prod(1)
        weights.append((quadrature * lagrange * rho).sum() * half)
    return torch.stack(weights)
