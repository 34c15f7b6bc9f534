"""Stochastic samplers draw from the right distribution: its mean and its full covariance.

Pairs of neighbouring pixels are correlated, so that noise which is added or taken away along the
wrong direction shows.
"""

import pytest
import torch
from torch import Tensor

from diffusion.ideal import IdealPairs, PairMixture
from sfumato.core.images import Images, Labels
from sfumato.core.noise import Noise
from sfumato.diffusion.denoiser import Denoised, NoClip
from sfumato.diffusion.grid import KarrasGrid, UniformGrid
from sfumato.diffusion.noise_schedule import NoiseSchedule, Times
from sfumato.diffusion.parameterization import (
    EDMParameterization,
    EpsParameterization,
    VelocityParameterization,
)
from sfumato.diffusion.samplers.ancestral import AncestralSampler, DDIMSampler
from sfumato.diffusion.samplers.dpm_solver import DPMSolverMultistepSampler
from sfumato.diffusion.samplers.heun import Churn, EulerSampler, HeunSampler
from sfumato.diffusion.samplers.sampler import Sampler
from sfumato.diffusion.schedules import CosineSchedule, EDMSchedule, RectifiedFlowSchedule

GAUSSIAN = PairMixture((1.0,), ((0.2, -0.3),), ((0.3, 0.22, 0.25),))
MIXTURE = PairMixture(
    (0.35, 0.65), ((-0.5, 0.4), (0.4, -0.2)), ((0.04, 0.03, 0.05), (0.06, -0.04, 0.04))
)
PAIRS = 2000  # an image
IMAGES = 4


class LearnedVariance(IdealPairs):
    """Says that the variance lies half way between its bounds."""

    def forward(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        denoised = super().forward(x_t, t, labels)
        return denoised._replace(variance_fraction=torch.full_like(x_t, 0.5))


def moments(sampler: Sampler, denoiser: IdealPairs) -> tuple[Tensor, Tensor]:
    noise = Noise(range(IMAGES))
    times = sampler.grid(denoiser.schedule, sampler.steps)
    x_1 = denoiser.schedule.start_std(times[0]) * noise.normal(1, PAIRS, 2).double()
    pairs = sampler(denoiser, x_1, None, noise).view(-1, 2)
    return pairs.mean(0), pairs.T.cov()


CHURN = Churn(amount=30.0, sigma_min=0.05, sigma_max=20.0)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(MIXTURE, id="mixture"),
        pytest.param(GAUSSIAN, id="gaussian", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "sampler",
    [
        AncestralSampler(steps=200, clip=NoClip()),
        AncestralSampler(steps=200, variance="large", clip=NoClip()),
        AncestralSampler(steps=200, variance="learned", clip=NoClip()),
        DDIMSampler(steps=200, eta=0.5, clip=NoClip()),
        DDIMSampler(steps=200, eta=1.0, clip=NoClip()),
        DPMSolverMultistepSampler(steps=100, stochastic=True),
        EulerSampler(steps=400, churn=CHURN),  # of order 1: with 200 it is 0.03 off
        HeunSampler(steps=60, churn=CHURN),
    ],
    ids=lambda s: f"{s.kind}-{getattr(s, 'variance', '')}{getattr(s, 'eta', '')}",
)
def test_mean_and_covariance_on_the_cosine_schedule(sampler: Sampler, data: PairMixture) -> None:
    denoiser = LearnedVariance(data, CosineSchedule(), EpsParameterization())
    mean, covariance = data.moments()
    found_mean, found = moments(sampler, denoiser)
    torch.testing.assert_close(found_mean, mean, rtol=0, atol=0.02)  # standard error 0.005
    torch.testing.assert_close(found, covariance, rtol=0, atol=0.02)  # of the Gaussian: 0.004


@pytest.mark.parametrize(
    ("schedule", "sampler"),
    [
        (EDMSchedule(), HeunSampler(steps=60, churn=CHURN)),
        (EDMSchedule(), AncestralSampler(steps=200, grid=KarrasGrid(), clip=NoClip())),
        (RectifiedFlowSchedule(), DDIMSampler(steps=200, eta=1.0, clip=NoClip())),
        (
            RectifiedFlowSchedule(),
            DPMSolverMultistepSampler(steps=200, stochastic=True, grid=UniformGrid()),
        ),
    ],
    ids=["edm-heun", "edm-ancestral", "flow-ddim", "flow-sde"],
)
def test_mean_and_covariance_on_continuous_schedules(
    schedule: NoiseSchedule, sampler: Sampler
) -> None:
    edm = isinstance(schedule, EDMSchedule)
    parameterization = EDMParameterization() if edm else VelocityParameterization()
    mean, covariance = MIXTURE.moments()
    found_mean, found = moments(sampler, IdealPairs(MIXTURE, schedule, parameterization))
    torch.testing.assert_close(found_mean, mean, rtol=0, atol=0.02)
    torch.testing.assert_close(found, covariance, rtol=0, atol=0.02)
