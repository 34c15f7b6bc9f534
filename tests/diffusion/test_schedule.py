"""Schedules against the product form of their papers, published constants and round trips."""

import math

import pytest
import torch

from diffusion.ideal import at
from sfumato.core.errors import ConfigError
from sfumato.diffusion.noise_schedule import NoiseSchedule
from sfumato.diffusion.schedules import (
    ContinuousCosineSchedule,
    CosineSchedule,
    EDMSchedule,
    LinearBetaSchedule,
    RectifiedFlowSchedule,
    ScaledLinearSchedule,
    SigmoidSchedule,
    ZeroTerminalSnrSchedule,
)

DISCRETE = [
    LinearBetaSchedule(),
    LinearBetaSchedule(num_steps=500),
    LinearBetaSchedule(num_steps=4000, beta_last=0.01),
    CosineSchedule(),
    CosineSchedule(num_steps=1500),
    ScaledLinearSchedule(),
    SigmoidSchedule(),
]
CONTINUOUS = [EDMSchedule(), RectifiedFlowSchedule(), ContinuousCosineSchedule()]


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
        ({"num_steps": 1}, "'num_steps' is 1; it should be at least 2"),
    ],
)
def test_impossible_betas_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearBetaSchedule(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=str)
def test_time_inverts_log_snr_of_continuous_schedules(schedule: NoiseSchedule) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.7, 1.0])
def test_continuous_schedules_have_the_marginals_of_their_papers(t: float) -> None:
    def marginal(schedule: NoiseSchedule) -> list[float]:
        return [c.item() for c in schedule.alpha_sigma(at(t))]

    assert marginal(EDMSchedule()) == pytest.approx([1, 80 * t], abs=1e-12)
    assert marginal(RectifiedFlowSchedule()) == pytest.approx([1 - t, t], abs=1e-12)
    angle = math.atan(math.exp(7.5)) * t
    cosine = [math.cos(angle), math.sin(angle)]
    assert marginal(ContinuousCosineSchedule()) == pytest.approx(cosine, abs=1e-12)


def test_scaled_linear_schedule_ends_where_stable_diffusion_does() -> None:
    """The largest sigma of Stable Diffusion 1, quoted by every sampler for it: 14.61."""
    log_snr = ScaledLinearSchedule().log_snr(at(0.001, 1.0))
    assert (-log_snr / 2).exp().tolist() == pytest.approx([0.0292, 14.6146], rel=2e-3)


def test_sigmoid_schedule_is_the_sigmoid_of_the_paper() -> None:
    """Jabri et al. 2023, algorithm 1, with its defaults, where it is not clipped."""
    t = at(0.25)
    low, high = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
    expected = (high - 1 / (1 + math.exp(-(0.25 * 6 - 3)))) / (high - low)
    assert SigmoidSchedule().alpha_sigma(t)[0].item() ** 2 == pytest.approx(expected, rel=1e-9)


def test_zero_terminal_snr_keeps_the_first_step_and_ends_in_noise() -> None:
    schedule, base = ZeroTerminalSnrSchedule(), LinearBetaSchedule()
    assert schedule.reaches_pure_noise
    assert not base.reaches_pure_noise
    first = schedule.alpha_sigma(at(0.001))[0]
    torch.testing.assert_close(first, base.alpha_sigma(at(0.001))[0])
    assert [c.item() for c in schedule.alpha_sigma(at(1.0))] == [0.0, 1.0]
    alpha, shifted = base.alpha_sigma(at(0.5, 1.0))[0], schedule.alpha_sigma(at(0.5))[0]
    expected = (alpha[0] - alpha[1]) * first / (first - alpha[1])
    assert shifted.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_last_interval_before_pure_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"except in \(0.999, 1\)"):
        ZeroTerminalSnrSchedule().log_snr(at(0.9995))
