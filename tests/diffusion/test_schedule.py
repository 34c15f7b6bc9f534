"""Schedules against the product form of their papers, published constants and round trips."""

import math

import pytest
import torch

from diffusion.ideal import at
from sfumato.core.errors import ConfigError
from sfumato.diffusion.discrete_schedules import CosineSchedule, LinearBetaSchedule
from sfumato.diffusion.schedule import NoiseSchedule

DISCRETE = [
    LinearBetaSchedule(),
    LinearBetaSchedule(num_steps=500),
    LinearBetaSchedule(num_steps=4000, beta_last=0.01),
    CosineSchedule(),
    CosineSchedule(num_steps=1500),
]


def steps_of(schedule: NoiseSchedule) -> int:
    assert schedule.table is not None
    return schedule.table.num_steps


def test_linear_schedule_ends_at_the_published_signal_level() -> None:
    """Ho et al. 2020, section 4: KL(q(x_T | x_0) || N(0, I)) of about 1e-5 bits a dimension."""
    log_snr = LinearBetaSchedule().log_snr(at(1.0)).item()
    alpha_bar = 1 / (1 + math.exp(-log_snr))
    assert alpha_bar == pytest.approx(4.0358e-5, rel=1e-4)  # the product of 1 - beta


def test_cosine_schedule_is_the_squared_cosine_where_it_is_not_clipped() -> None:
    t = torch.arange(1, 990, dtype=torch.float64) / 1000
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    expected = f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(CosineSchedule().alpha_sigma(t)[0] ** 2, expected, rtol=1e-9, atol=0)


def test_cosine_schedule_has_its_last_beta_clipped() -> None:
    step = CosineSchedule().transition(at(0.999), at(1.0))
    assert step.forward_variance.item() == pytest.approx(0.999, abs=1e-12)


@pytest.mark.parametrize("schedule", DISCRETE, ids=str)
def test_time_inverts_log_snr(schedule: NoiseSchedule) -> None:
    T = steps_of(schedule)
    generator = torch.Generator().manual_seed(0)
    between = 1 / T + torch.rand(100, generator=generator, dtype=torch.float64) * (1 - 1 / T)
    t = torch.cat([torch.arange(T + 1, dtype=torch.float64) / T, between])
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=0, atol=1e-10)


@pytest.mark.parametrize("schedule", DISCRETE, ids=str)
def test_marginals_are_normalized_and_start_at_clean_data(schedule: NoiseSchedule) -> None:
    t = torch.arange(steps_of(schedule) + 1, dtype=torch.float64) / steps_of(schedule)
    alpha, sigma = schedule.alpha_sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    assert (alpha[0].item(), sigma[0].item()) == (1.0, 0.0)
    assert (schedule.log_snr(t).diff() < 0).all()


def test_between_grid_points_log_alpha_is_linear() -> None:
    schedule = LinearBetaSchedule(num_steps=100)
    alpha = schedule.alpha_sigma(at(0.4, 0.4025, 0.41))[0].log()
    assert alpha[1].item() == pytest.approx((0.75 * alpha[0] + 0.25 * alpha[2]).item(), rel=1e-12)


@pytest.mark.parametrize("t", [0.0005, -0.01, 1.01])
def test_times_without_a_noise_level_are_refused(t: float) -> None:
    with pytest.raises(ConfigError, match="no noise level at time"):
        LinearBetaSchedule().log_snr(at(t))


def test_noise_levels_without_a_time_are_refused() -> None:
    first = LinearBetaSchedule().log_snr(at(0.001))
    with pytest.raises(ConfigError, match="no noise level"):
        LinearBetaSchedule().time(first + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta_first": 0.0}, "0 < beta_first"),
        ({"beta_first": 0.5, "beta_last": 0.1}, "beta_first=0.5, beta_last=0.1"),
        ({"num_steps": 1}, "num_steps >= 2, got 1"),
    ],
)
def test_impossible_betas_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearBetaSchedule(**arguments)  # type: ignore[arg-type]
