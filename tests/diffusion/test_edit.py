"""Editing on data whose flow and posterior are known."""

import pytest
import torch

from diffusion.ideal import BIMODAL, GAUSSIAN, IdealDenoiser, at
from sfumato.core.errors import ConfigError
from sfumato.core.noise import Noise
from sfumato.diffusion import edit
from sfumato.diffusion.continuous_schedules import EDMSchedule
from sfumato.diffusion.discrete_schedules import CosineSchedule, LinearBetaSchedule
from sfumato.diffusion.grid import KarrasGrid, UniformGrid
from sfumato.diffusion.parameterization import EDMParameterization, EpsParameterization
from sfumato.diffusion.samplers.ancestral import AncestralSampler, DDIMSampler

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
    again = edit.reconstruct(denoiser, x_1, None, Noise([0]), times)
    torch.testing.assert_close(again, x_0, rtol=0, atol=2e-3)


def test_round_trip_on_ddpms_own_grid() -> None:
    times = UniformGrid()(DENOISER.schedule, 250)
    x_0 = BIMODAL.sample((2, 1, 4, 4), torch.Generator().manual_seed(0))
    x_1 = edit.invert(DENOISER, x_0, None, Noise([0, 1]), times)
    again = edit.reconstruct(DENOISER, x_1, None, Noise([0, 1]), times)
    torch.testing.assert_close(again, x_0, rtol=0, atol=5e-3)


def test_spherical_interpolation_keeps_the_norm_and_moves_evenly() -> None:
    a, b = Noise([1, 2]).normal(3, 16, 16).double()
    b = b * a.norm() / b.norm()
    path = edit.interpolate(a, b, 9)
    torch.testing.assert_close(path.flatten(1).norm(dim=1), a.norm().expand(9))
    steps = path.diff(dim=0).flatten(1).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(8))
    torch.testing.assert_close(path[0], a)
    torch.testing.assert_close(path[-1], b)


def test_linear_interpolation_and_its_smoothness() -> None:
    path = edit.interpolate(torch.zeros(2), torch.tensor([3.0, 4.0]), 6, "linear")
    found = edit.smoothness(path)
    assert found == pytest.approx((1.0, 1.0))
    detour = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    assert edit.smoothness(detour) == pytest.approx((3.5, 7 / 5))
    with pytest.raises(ConfigError, match="at least 2 points, got 1"):
        edit.interpolate(torch.zeros(2), torch.ones(2), 1)


def test_parallel_noises_are_interpolated_without_dividing_by_zero() -> None:
    a = torch.ones(4)
    torch.testing.assert_close(edit.interpolate(a, 2 * a, 3)[1], 1.5 * a)


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


def test_repaint_keeps_what_is_known_and_draws_the_rest_from_the_data() -> None:
    """Pixels are independent, so the unknown ones follow the plain distribution."""
    x_0 = torch.full((24, 1, 8, 8), 0.5, dtype=torch.float64)
    known = torch.zeros(24, 1, 8, 8, dtype=torch.float64)
    known[..., :4] = 1
    times = UniformGrid()(CosineSchedule(), 100)
    denoiser = IdealDenoiser(BIMODAL, CosineSchedule(), EpsParameterization())
    x = edit.repaint(denoiser, x_0, known, None, Noise(range(24)), times, resamplings=2)
    assert torch.equal(x[..., :4], x_0[..., :4])
    found = x[..., 4:]
    assert found.mean().item() == pytest.approx(0.17, abs=0.05)
    assert (found < 0).double().mean().item() == pytest.approx(0.3, abs=0.05)


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
