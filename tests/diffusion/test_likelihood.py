"""Both likelihoods against the exact log-density of data whose denoiser is ideal."""

import math

import pytest
import torch

from diffusion.ideal import BIMODAL, GAUSSIAN, IdealDenoiser, Mixture, at
from sfumato.core.errors import ConfigError
from sfumato.core.noise import Noise
from sfumato.diffusion.grid import UniformGrid
from sfumato.diffusion.likelihood import (
    decoder_nats,
    dequantize,
    mean_bits,
    ode_likelihood,
    prior_term,
    variational_bound,
)
from sfumato.diffusion.noise_schedule import NoiseSchedule
from sfumato.diffusion.parameterization import (
    EDMParameterization,
    EpsParameterization,
    VelocityParameterization,
    VParameterization,
)
from sfumato.diffusion.schedules import (
    ContinuousCosineSchedule,
    CosineSchedule,
    EDMSchedule,
    LinearBetaSchedule,
    RectifiedFlowSchedule,
    ZeroTerminalSnrSchedule,
)

SHAPE = (16, 1, 3, 3)


def sample(data: Mixture) -> torch.Tensor:
    return data.sample(SHAPE, torch.Generator().manual_seed(0))


def exact_bits(data: Mixture, x: torch.Tensor, noise_level: float) -> torch.Tensor:
    nats = -data.log_density(x, sigma=noise_level).flatten(1).mean(1)
    return nats / math.log(2) + math.log2(127.5)


@pytest.mark.parametrize("data", [GAUSSIAN, BIMODAL], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(
    ("schedule", "parameterization"),
    [
        (LinearBetaSchedule(), EpsParameterization()),
        (ContinuousCosineSchedule(), VParameterization()),
        (EDMSchedule(), EDMParameterization()),
        (RectifiedFlowSchedule(), VelocityParameterization()),
    ],
    ids=["linear_beta", "cosine", "edm", "flow"],
)
def test_ode_likelihood_is_the_exact_density(
    data: Mixture, schedule: LinearBetaSchedule, parameterization: EpsParameterization
) -> None:
    x = sample(data)
    denoiser = IdealDenoiser(data, schedule, parameterization)
    found = ode_likelihood(denoiser, x, None, Noise(range(16)), trace="exact", tolerance=1e-6)
    expected = exact_bits(data, x, found.noise_level)
    # The sampler's first noise ignores the mean of the data, which with sigma = 80 still shows.
    tolerance = 6e-3 if isinstance(schedule, EDMSchedule) else 2e-3
    torch.testing.assert_close(found.bits_per_dim, expected, rtol=0, atol=tolerance)


def test_hutchinson_agrees_with_the_exact_trace() -> None:
    """Pixels are independent here, so the Jacobian is diagonal and random signs are exact."""
    x = sample(BIMODAL)
    denoiser = IdealDenoiser(BIMODAL, LinearBetaSchedule(), EpsParameterization())
    exact = ode_likelihood(denoiser, x, None, Noise(range(16)), trace="exact")
    estimate = ode_likelihood(denoiser, x, None, Noise(range(16)), probes=2)
    torch.testing.assert_close(estimate.bits_per_dim, exact.bits_per_dim)


def test_ode_likelihood_of_a_schedule_with_a_gap_is_refused() -> None:
    denoiser = IdealDenoiser(GAUSSIAN, ZeroTerminalSnrSchedule(), VParameterization())
    with pytest.raises(ConfigError, match="zero terminal SNR"):
        ode_likelihood(denoiser, sample(GAUSSIAN), None, Noise(range(16)))


TWO_MODES = Mixture((0.35, 0.65), (-0.5, 0.4), (0.15, 0.2))
NARROW = Mixture((1.0,), (0.1,), (0.2,))


@pytest.mark.parametrize("data", [NARROW, TWO_MODES], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(
    ("schedule", "parameterization"),
    [
        (CosineSchedule(num_steps=400), EpsParameterization()),
        (ContinuousCosineSchedule(), VParameterization()),
    ],
    ids=["cosine", "continuous"],
)
def test_bound_of_the_ideal_denoiser_is_the_exact_likelihood(
    data: Mixture, schedule: NoiseSchedule, parameterization: EpsParameterization
) -> None:
    """With many steps the reverse steps of any data are Gaussian: next to nothing is lost.

    Their variance is the larger one where data are smooth (Sohl-Dickstein et al. 2015, 2.2).
    """
    levels = ((data.sample((64, 1, 4, 4), torch.Generator().manual_seed(1)) + 1) * 127.5).round()
    x_0 = levels.clamp(0, 255) / 127.5 - 1
    denoiser = IdealDenoiser(data, schedule, parameterization)
    times = UniformGrid()(schedule, 400)
    bound = variational_bound(denoiser, x_0, None, Noise(range(64)), times, "large").total.mean()
    exact = exact_bits(data, x_0, 0.0).mean()
    assert bound.item() == pytest.approx(exact.item(), abs=0.02)  # of 6.7 or more, from 4e5 terms


def test_a_wrong_denoiser_has_a_larger_bound() -> None:
    x_0 = ((sample(BIMODAL) + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
    totals = []
    for data in (BIMODAL, GAUSSIAN):
        denoiser = IdealDenoiser(data, CosineSchedule(), EpsParameterization())
        times = UniformGrid()(denoiser.schedule, 100)
        bound = variational_bound(denoiser, x_0, None, Noise(range(16)), times)
        assert bound.steps.shape == (16, 100)
        totals.append(bound.total.mean().item())
    assert totals[1] - totals[0] > 0.3


def test_prior_term_of_ddpm_is_the_published_value() -> None:
    """Ho et al. 2020, section 4: about 1e-5 bits per dimension for data in [-1, 1]."""
    x_0 = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    bits = prior_term(LinearBetaSchedule(), x_0, at(1.0))
    assert (bits > 3e-6).all()
    assert (bits < 3e-5).all()


@pytest.mark.parametrize("log_std", [-7.0, -5.0, -2.0, 0.0])
@pytest.mark.parametrize("mean", [-1.2, 0.3, 0.999])
def test_decoder_is_a_distribution_over_the_256_levels(log_std: float, mean: float) -> None:
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(1, 1, 16, 16)
    nats = decoder_nats(levels, torch.full_like(levels, mean), torch.full_like(levels, 2 * log_std))
    assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_decoder_keeps_its_digits_far_in_the_tail() -> None:
    """In float32 a difference of distribution functions would be 0 there."""
    x_0, mean = torch.full((1, 1, 1, 1), 0.6), torch.full((1, 1, 1, 1), -0.6)
    log_variance = torch.full((1, 1, 1, 1), 2 * math.log(0.1))
    nats = decoder_nats(x_0, mean, log_variance).item()
    z = (1.2 - 1 / 255) / 0.1  # the near edge of the bin dominates
    width = 2 / 255 / 0.1
    expected = z**2 / 2 + math.log(math.sqrt(2 * math.pi)) - math.log(-math.expm1(-z * width) / z)
    assert nats == pytest.approx(expected, rel=2e-3)


def test_dequantized_images_stay_in_their_bins() -> None:
    levels = torch.arange(256).view(1, 1, 16, 16) / 127.5 - 1
    spread = dequantize(levels, Noise([0]))
    assert torch.equal(((spread + 1) * 127.5).round(), ((levels + 1) * 127.5).round())
    assert (spread - levels).std().item() == pytest.approx(1 / 127.5 / math.sqrt(12), rel=0.1)


def test_mean_bits_is_in_bits_per_dimension() -> None:
    assert mean_bits(torch.full((2, 3, 4, 4), math.log(2))).tolist() == pytest.approx([1.0, 1.0])
