"""Editing on data whose flow and posterior are known."""

from itertools import pairwise

import pytest
import torch

from diffusion.ideal import BIMODAL, GAUSSIAN, IdealDenoiser, IdealPairs, PairMixture, at
from sfumato.core.errors import ConfigError
from sfumato.core.noise import Noise
from sfumato.diffusion import editing as edit
from sfumato.diffusion.grid import KarrasGrid, UniformGrid
from sfumato.diffusion.parameterization import (
    EDMParameterization,
    EpsParameterization,
)
from sfumato.diffusion.samplers.ancestral import AncestralSampler, DDIMSampler
from sfumato.diffusion.schedules import CosineSchedule, EDMSchedule, LinearBetaSchedule

DENOISER = IdealDenoiser(BIMODAL, LinearBetaSchedule(), EpsParameterization())


def test_inversion_finds_the_noise_and_reconstruction_the_image() -> None:
    """On Gaussian data the flow keeps z-scores: the noise of x_0 is (x_0 - mean) / std."""
    denoiser = IdealDenoiser(GAUSSIAN, EDMSchedule(), EDMParameterization())
    times = KarrasGrid()(denoiser.schedule, 60)
    x_0 = 0.3 + 0.5 * torch.linspace(-2, 2, 16, dtype=torch.float64).view(1, 1, 4, 4)
    x_1 = edit.invert(denoiser, x_0, None, Noise([0]), times)
    # The clean image enters at sigma = 0.002 as if it were already noisy: an error of that order.
    expected = 0.3 + (80**2 + 0.25) ** 0.5 * (x_0 - 0.3) / 0.5
    torch.testing.assert_close(x_1, expected, rtol=3e-3, atol=0.3)
    again = edit.generate_by_flow(denoiser, x_1, None, Noise([0]), times)
    torch.testing.assert_close(again, x_0, rtol=0, atol=2e-3)


def test_round_trip_on_ddpms_own_grid() -> None:
    times = UniformGrid()(DENOISER.schedule, 250)
    x_0 = BIMODAL.sample((2, 1, 4, 4), torch.Generator().manual_seed(0))
    x_1 = edit.invert(DENOISER, x_0, None, Noise([0, 1]), times)
    again = edit.generate_by_flow(DENOISER, x_1, None, Noise([0, 1]), times)
    torch.testing.assert_close(again, x_0, rtol=0, atol=5e-3)


def test_sdedit_stays_close_from_an_early_start_and_forgets_from_a_late_one() -> None:
    x_0 = torch.full((16, 1, 8, 8), 0.5)
    sampler = DDIMSampler(steps=100)

    def flipped(start: float) -> float:
        x = edit.sdedit(DENOISER, sampler, x_0, start, None, Noise(range(16)))
        return (x < 0).double().mean().item()

    assert flipped(0.02) < 0.001
    assert flipped(1.0) == pytest.approx(0.3, abs=0.05)  # the weight of the other mode
    with pytest.raises(ConfigError, match="start later"):
        edit.sdedit(DENOISER, sampler, x_0, 1e-4, None, Noise(range(16)))


@pytest.mark.parametrize("jump", [1, 10])
def test_repaint_keeps_what_is_known_and_draws_the_rest_from_the_data(jump: int) -> None:
    """Pixels are independent, so the unknown ones follow the plain distribution."""
    x_0 = torch.full((24, 1, 8, 8), 0.5, dtype=torch.float64)
    known = torch.zeros(24, 1, 8, 8, dtype=torch.float64)
    known[..., :4] = 1
    times = UniformGrid()(CosineSchedule(), 100)
    denoiser = IdealDenoiser(BIMODAL, CosineSchedule(), EpsParameterization())
    x = edit.repaint(denoiser, x_0, known, None, Noise(range(24)), times, resamplings=2, jump=jump)
    assert torch.equal(x[..., :4], x_0[..., :4])
    found = x[..., 4:]
    assert found.mean().item() == pytest.approx(0.17, abs=0.05)
    assert (found < 0).double().mean().item() == pytest.approx(0.3, abs=0.05)


def test_repaint_goes_back_as_in_the_schedule_of_the_paper() -> None:
    """Lugmayr et al.'s own example is T = 250, j = r = 10: 2410 evaluations by their loop."""
    up_and_down = [6, 5, 4, 3, 5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 3, 2, 1, 0]
    assert edit.repaint_levels(6, resamplings=3, jump=2) == up_and_down
    assert edit.repaint_levels(4, resamplings=1, jump=3) == [4, 3, 2, 1, 0]
    path = edit.repaint_levels(250, resamplings=10, jump=10)
    downs = sum(b < a for a, b in pairwise(path))
    assert downs == 250 + 9 * 10 * len(range(0, 250 - 10, 10))
    for impossible in ({"resamplings": 0, "jump": 1}, {"resamplings": 2, "jump": 6}):
        with pytest.raises(ConfigError, match="jump < steps"):
            edit.repaint_levels(6, **impossible)


CORRELATED = PairMixture((1.0,), ((0.0, 0.0),), ((0.25, 0.225, 0.25),))


@pytest.mark.parametrize(("resamplings", "jump"), [(1, 1), (10, 1), (10, 6)])
def test_repaint_finds_the_conditional_distribution_if_it_goes_back(
    resamplings: int, jump: int
) -> None:
    """Known a, the pixel beside it is N(0.9 a, 0.25 (1 - 0.81)); without going back it is not."""
    a = torch.linspace(-1, 1, 400, dtype=torch.float64).view(4, 1, 100, 1)
    x_0 = torch.cat([a, torch.zeros_like(a)], dim=3)
    known = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(4, 1, 100, 2)
    schedule = CosineSchedule()
    times = UniformGrid()(schedule, 60)
    noise = Noise(range(4))
    denoiser = IdealPairs(CORRELATED, schedule, EpsParameterization())
    x = edit.repaint(denoiser, x_0, known, None, noise, times, resamplings, jump)
    slope = ((x[..., 1:] * a).sum() / (a**2).sum()).item()
    residual = (x[..., 1:] - slope * a).var().item()
    if resamplings == 1:
        assert slope < 0.75
        return
    assert slope == pytest.approx(0.9, abs=0.06)  # standard error 0.02
    assert residual == pytest.approx(0.25 * (1 - 0.81), rel=0.3)


def test_reverse_strip_shows_the_visited_times_nearest_to_those_asked_for() -> None:
    sampler = AncestralSampler(steps=11)
    x_1 = Noise([0]).normal(1, 4, 4)
    strip = edit.reverse_strip(DENOISER, sampler, x_1, None, Noise([0]), [1.0, 0.52, 0.0])
    visited = (UniformGrid()(DENOISER.schedule, 11)).tolist()
    assert [frame.t for frame in strip] == [1.0, min(visited, key=lambda t: abs(t - 0.52)), 0.0]
    assert torch.equal(strip[0].x_t, x_1)
    final = sampler(DENOISER, x_1, None, Noise([0]))
    assert torch.equal(strip[-1].x_t, final)
    assert torch.equal(strip[-1].x_0, final)  # the last step is the prediction of x_0


def test_noise_estimates_are_good_at_high_noise_and_shrink_at_low() -> None:
    """The ideal prediction has E|eps_hat|^2 = 1 - alpha^2 Var(x_0 | x_t) / sigma^2."""
    denoiser = IdealDenoiser(GAUSSIAN, LinearBetaSchedule(), EpsParameterization())
    x_0 = GAUSSIAN.sample((4, 1, 64, 64), torch.Generator().manual_seed(0))
    rows = edit.noise_estimates(denoiser, x_0, None, Noise(range(4)), [at(0.02), at(1.0)])
    for row in rows:
        alpha, sigma = denoiser.schedule.alpha_sigma(at(row.t))
        share = sigma**2 / (0.25 * alpha**2 + sigma**2)
        assert row.predicted_std.mean().item() == pytest.approx(share.sqrt().item(), rel=0.03)
        assert row.eps_std.mean().item() == pytest.approx(1.0, rel=0.03)
    assert torch.equal(rows[0].eps, rows[1].eps)
