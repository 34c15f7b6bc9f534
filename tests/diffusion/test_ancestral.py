"""DDPM and DDIM on data whose exact samples are known."""

import pytest
import torch

from diffusion.ideal import BIMODAL, GAUSSIAN, IdealDenoiser
from sfumato.core.noise import Noise
from sfumato.diffusion.denoiser import NoClip
from sfumato.diffusion.grid import TrailingGrid
from sfumato.diffusion.parameterization import EpsParameterization
from sfumato.diffusion.samplers.ancestral import AncestralSampler, DDIMSampler
from sfumato.diffusion.schedules import LinearBetaSchedule


def test_ddim_error_halves_when_steps_double() -> None:
    """For x_0 ~ N(m, s^2) the exact flow keeps each pixel's z-score, so the answer is known."""
    schedule = LinearBetaSchedule(num_steps=4000)
    denoiser = IdealDenoiser(GAUSSIAN, schedule, EpsParameterization())
    z = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64).view(3, 1, 1, 1)
    alpha, sigma = schedule.alpha_sigma(torch.ones((), dtype=torch.float64))
    start = alpha * 0.3 + (0.25 * alpha**2 + sigma**2).sqrt() * z

    def error(steps: int) -> float:
        sampler = DDIMSampler(steps=steps, clip=NoClip(), grid=TrailingGrid())
        x_0 = sampler(denoiser, start, labels=None, noise=Noise(range(3)))
        return (x_0 - (0.3 + 0.5 * z)).abs().max().item()

    assert error(100) / error(200) == pytest.approx(2.0, rel=0.05)
    assert error(400) < 0.02


def test_ddpm_and_ddim_with_eta_1_are_the_same_sampler() -> None:
    denoiser = IdealDenoiser(BIMODAL, LinearBetaSchedule(), EpsParameterization())
    x_1 = Noise([5]).normal(1, 4, 4).double()
    ddpm = AncestralSampler(steps=20)(denoiser, x_1, None, Noise([7]))
    ddim = DDIMSampler(steps=20, eta=1.0)(denoiser, x_1, None, Noise([7]))
    torch.testing.assert_close(ddpm, ddim)


def test_all_steps_of_ddpm_follow_algorithm_2() -> None:
    """Ho et al. 2020, algorithm 2, written from betas and the predicted noise."""
    schedule = LinearBetaSchedule(num_steps=50, beta_last=0.3)
    denoiser = IdealDenoiser(GAUSSIAN, schedule, EpsParameterization())
    x = x_1 = Noise([1]).normal(1, 2, 2).double()
    beta = torch.linspace(1e-4, 0.3, 50, dtype=torch.float64)
    bar = (1 - beta).cumprod(0)
    noise = Noise([2])
    for k in reversed(range(50)):
        x_0 = GAUSSIAN.denoise(x, bar[k].sqrt(), (1 - bar[k]).sqrt())
        eps = (x - bar[k].sqrt() * x_0) / (1 - bar[k]).sqrt()
        x = (x - beta[k] / (1 - bar[k]).sqrt() * eps) / (1 - beta[k]).sqrt()
        if k > 0:
            x = x + beta[k].sqrt() * noise.normal_like(x)
    sampler = AncestralSampler(steps=50, variance="large", clip=NoClip())
    torch.testing.assert_close(sampler(denoiser, x_1, None, Noise([2])), x)
