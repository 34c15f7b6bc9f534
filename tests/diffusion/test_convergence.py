"""Every deterministic sampler converges to the exact flow at its stated order.

Pixels from a mixture of Gaussians: the flow keeps quantiles, so its end is known. The order shows
on a smooth schedule, inside a finite window of log-SNR, without clipping, and when a multistep
method starts from exact values; very short first steps stand in for those.
"""

import math

import pytest
import torch

from diffusion.ideal import SMOOTH, IdealDenoiser
from sfumato.core.noise import Noise
from sfumato.diffusion.parameterization import (
    EDMParameterization,
    VelocityParameterization,
    VParameterization,
)
from sfumato.diffusion.samplers.ancestral import DDIMSampler
from sfumato.diffusion.samplers.deis import DEISSampler
from sfumato.diffusion.samplers.dpm_solver import (
    DPMSolverMultistepSampler,
    DPMSolverSinglestepSampler,
)
from sfumato.diffusion.samplers.heun import EulerSampler, HeunSampler
from sfumato.diffusion.samplers.ipndm import ADAMS_BASHFORTH, IPNDMSampler, PNDMSampler
from sfumato.diffusion.samplers.sampler import Route, Sampler
from sfumato.diffusion.samplers.unipc import UniPCSampler
from sfumato.diffusion.schedules import (
    ContinuousCosineSchedule,
    EDMSchedule,
    RectifiedFlowSchedule,
)

VP = IdealDenoiser(SMOOTH, ContinuousCosineSchedule(), VParameterization())
EDM = IdealDenoiser(SMOOTH, EDMSchedule(sigma_max=3.0), EDMParameterization())
FLOW = IdealDenoiser(SMOOTH, RectifiedFlowSchedule(), VelocityParameterization())
START, END = 0.9, 0.2
QUANTILES = torch.tensor([-2.0, -0.7, 0.1, 0.8, 1.9], dtype=torch.float64).view(5, 1, 1, 1)


def error(sampler: Sampler, denoiser: IdealDenoiser, steps: int, short_steps: int = 0) -> float:
    """The largest error at END of a walk from START in equal steps, the first of them short."""
    length = (START - END) / steps
    short = [START - k * length**2 for k in range(short_steps)]
    rest = torch.linspace(START - short_steps * length**2, END, steps + 1, dtype=torch.float64)
    times = torch.cat([torch.tensor(short, dtype=torch.float64), rest])
    alpha, sigma = (c.item() for c in denoiser.schedule.alpha_sigma(times[0]))
    end_alpha, end_sigma = (c.item() for c in denoiser.schedule.alpha_sigma(times[-1]))
    x = alpha * 0.2 + sigma * QUANTILES
    with torch.no_grad():
        *_, (found, _) = sampler.walk(x, Route(denoiser, times, None, Noise(range(5))))
    exact = SMOOTH.transported(x, (alpha, sigma), (end_alpha, end_sigma))
    return (found - exact).abs().max().item()


def name(value: object) -> str:
    return repr(value) if isinstance(value, Sampler) else ""


@pytest.mark.parametrize(
    "denoiser",
    [
        pytest.param(VP, id="vp"),
        pytest.param(EDM, id="edm", marks=pytest.mark.slow),
        pytest.param(FLOW, id="flow", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("sampler", "order", "short_steps"),
    [
        (DDIMSampler(), 1, 0),
        (EulerSampler(), 1, 0),
        (HeunSampler(), 2, 0),
        (DPMSolverSinglestepSampler(order=1), 1, 0),
        (DPMSolverSinglestepSampler(order=2), 2, 0),
        (DPMSolverSinglestepSampler(order=3), 3, 0),
        (DPMSolverMultistepSampler(order=1, lower_order_final=False), 1, 0),
        (DPMSolverMultistepSampler(order=2, lower_order_final=False), 2, 1),
        (DPMSolverMultistepSampler(order=3, lower_order_final=False), 3, 2),
        (UniPCSampler(order=1, corrector=False, lower_order_final=False), 1, 0),
        (UniPCSampler(order=2, corrector=False, lower_order_final=False), 2, 1),
        (UniPCSampler(order=3, corrector=False, lower_order_final=False), 3, 2),
        (UniPCSampler(order=1, lower_order_final=False), 2, 1),
        (UniPCSampler(order=2, lower_order_final=False), 3, 2),
        (UniPCSampler(order=2, variant="bh1", lower_order_final=False), 3, 2),
        (UniPCSampler(order=3, lower_order_final=False), 4, 3),
        (UniPCSampler(order=3, variant="bh1", lower_order_final=False), 4, 3),
        (DEISSampler(order=1, basis="t", lower_order_final=False), 1, 0),
        (DEISSampler(order=2, basis="t", lower_order_final=False), 2, 1),
        (DEISSampler(order=3, basis="t", lower_order_final=False), 3, 2),
        (DEISSampler(order=3, basis="rho", lower_order_final=False), 3, 2),
        (DEISSampler(order=3, basis="log_rho", lower_order_final=False), 3, 2),
        (IPNDMSampler(order=1), 1, 0),
        (IPNDMSampler(order=2), 2, 0),
    ],
    ids=name,
)
def test_order_of_convergence(
    sampler: Sampler, order: int, short_steps: int, denoiser: IdealDenoiser
) -> None:
    coarse, fine = (error(sampler, denoiser, n, short_steps) for n in (40, 80))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.45)


def test_pndm_is_of_order_4_where_its_steps_are_equal() -> None:
    """EDM's sigma is linear in t, so equal steps of t are equal steps of sigma / alpha."""
    coarse, fine = (error(PNDMSampler(), EDM, n) for n in (40, 80))
    assert math.log2(coarse / fine) == pytest.approx(4, abs=0.35)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_integrates_polynomials_exactly_once_its_memory_is_full(order: int) -> None:
    """Adams-Bashforth of order p is exact for slopes of degree p - 1, and for no higher degree."""
    weights = torch.tensor(ADAMS_BASHFORTH[order], dtype=torch.float64)
    past = -torch.arange(order, dtype=torch.float64)  # the step goes from 0 to 1
    for degree in range(order):
        assert (weights @ past**degree).item() == pytest.approx(1 / (degree + 1), rel=1e-12)
    assert abs((weights @ past**order).item() - 1 / (order + 1)) > 0.1


def test_halving_the_curvature_as_the_authors_code_does_leaves_order_2() -> None:
    sampler = DPMSolverMultistepSampler(order=3, halved_curvature=True, lower_order_final=False)
    coarse, fine = (error(sampler, VP, n, short_steps=2) for n in (40, 80))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.3)


def test_a_multistep_method_that_warms_up_at_low_order_shows_order_2() -> None:
    """Why the test above starts with short steps."""
    sampler = DPMSolverMultistepSampler(order=3, lower_order_final=False)
    coarse, fine = (error(sampler, VP, n) for n in (40, 80))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.3)
