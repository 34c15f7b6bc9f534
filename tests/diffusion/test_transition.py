"""Transitions between any two times, against what DDPM computes from products of betas."""

import pytest
import torch

from diffusion.ideal import at
from sfumato.diffusion.noise_schedule import NoiseSchedule
from sfumato.diffusion.schedules import CosineSchedule, LinearBetaSchedule


def betas_of(schedule: NoiseSchedule) -> torch.Tensor:
    """The betas written out again from the papers, apart from the package."""
    if isinstance(schedule, LinearBetaSchedule):
        return torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    t = torch.arange(1001, dtype=torch.float64) / 1000
    f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


GRIDS = {
    "full": list(range(1001)),
    "strided": list(range(0, 1001, 20)),
    "irregular": [0, 1, 2, 5, 17, 40, 41, 99, 300, 512, 777, 998, 1000],
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("schedule", [LinearBetaSchedule(), CosineSchedule()], ids=str)
def test_transitions_equal_the_product_form_of_the_betas(
    schedule: NoiseSchedule, grid: list[int]
) -> None:
    """Respaced betas (Nichol & Dhariwal 2021, eq. 19), then eqs. 2, 6 and 7 of Ho et al. 2020."""
    k = torch.tensor(grid)
    times = k.double() / 1000
    step = schedule.transition(times[:-1], times[1:])
    log_bar = torch.cat([torch.zeros(1).double(), torch.log1p(-betas_of(schedule)).cumsum(0)])[k]
    beta = -torch.expm1(log_bar.diff())
    bar_s, bar_t = log_bar[:-1].exp(), log_bar[1:].exp()
    rest_s, rest_t = -torch.expm1(log_bar[:-1]), -torch.expm1(log_bar[1:])

    close = {"rtol": 1e-10, "atol": 1e-13}
    torch.testing.assert_close(step.forward_variance, beta, **close)
    torch.testing.assert_close(step.forward_scale, (1 - beta).sqrt(), **close)
    torch.testing.assert_close(step.posterior_variance, rest_s / rest_t * beta, **close)
    on_x_0, on_x_t = step.posterior_weights
    torch.testing.assert_close(on_x_0, bar_s.sqrt() * beta / rest_t, **close)
    torch.testing.assert_close(on_x_t, (1 - beta).sqrt() * rest_s / rest_t, **close)
    assert bar_t.all()


def test_the_posterior_at_clean_data_is_the_clean_image() -> None:
    step = LinearBetaSchedule().transition(at(0.0), at(0.001))
    x_0, x_t = torch.full((1, 1, 1, 1), 0.25), torch.full((1, 1, 1, 1), 9.0)
    assert step.posterior_mean(x_0, x_t).item() == 0.25
    assert step.posterior_variance.item() == 0.0


def test_learned_variance_interpolates_the_logs() -> None:
    step = CosineSchedule().transition(at(0.499), at(0.5))
    fraction = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    variance = step.learned_log_variance(fraction, posterior_floor=at(0.0)).exp()
    small, large = step.posterior_variance, step.forward_variance
    torch.testing.assert_close(variance, torch.stack([small, (small * large).sqrt(), large]))


def test_learned_variance_at_clean_data_falls_back_on_the_second_step() -> None:
    schedule = CosineSchedule()
    first, second = (
        schedule.transition(at(0.0), at(0.001)),
        schedule.transition(at(0.001), at(0.002)),
    )
    floor = second.posterior_variance
    low = first.learned_log_variance(torch.zeros(1, dtype=torch.float64), posterior_floor=floor)
    torch.testing.assert_close(low.exp(), floor.view(1))
