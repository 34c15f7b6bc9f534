"""Grids against the formulas of their papers."""

import pytest
import torch

from diffusion.ideal import at
from sfumato.core.errors import ConfigError
from sfumato.diffusion.grid import (
    KarrasGrid,
    LeadingGrid,
    LogSnrGrid,
    SamplingGrid,
    TrailingGrid,
    UniformGrid,
)
from sfumato.diffusion.schedules import (
    CosineSchedule,
    EDMSchedule,
    LinearBetaSchedule,
    RectifiedFlowSchedule,
    ZeroTerminalSnrSchedule,
)

DDPM = LinearBetaSchedule()


def test_the_spacings_of_lin_et_al_table_2() -> None:
    """T = 1000, 10 steps, 1-based; the step to clean data is our addition."""

    def steps(grid: SamplingGrid) -> list[int]:
        return [round(k) for k in (grid(DDPM, 10) * 1000).tolist()]

    assert steps(LeadingGrid()) == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, 0]
    assert steps(UniformGrid()) == [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1, 0]
    assert steps(TrailingGrid()) == [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 0]


def test_karras_grid_is_equation_5() -> None:
    """18 steps from 80 to 0.002 with rho = 7."""
    times = KarrasGrid()(EDMSchedule(), 18)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    expected = [(high + i / 17 * (low - high)) ** 7 for i in range(18)]
    assert (80 * times[:-1]).tolist() == pytest.approx(expected, rel=1e-9)
    assert times[-1].item() == 0.0


@pytest.mark.parametrize(
    "grid", [LogSnrGrid(sigma_max=1000), LogSnrGrid(sigma_max=1000, snap=True)]
)
def test_log_snr_grid_has_equal_steps(grid: LogSnrGrid) -> None:
    log_snr = DDPM.log_snr(grid(DDPM, 12)[:-1])
    steps = log_snr.diff()
    tolerance = 0.2 if grid.snap else 1e-8  # the grid of the schedule is coarse near the data
    assert (steps / steps.mean() - 1).abs().max().item() < tolerance
    ends = DDPM.log_snr(at(1.0, 0.001))
    torch.testing.assert_close(torch.stack([log_snr[0], log_snr[-1]]), ends)


def test_snapped_times_are_the_nearest_grid_points() -> None:
    free, snapped = (KarrasGrid(rho=3.0, snap=snap)(DDPM, 8) for snap in (False, True))
    k = snapped * 1000
    torch.testing.assert_close(k, k.round(), rtol=0, atol=1e-9)
    assert ((snapped - free).abs() <= 0.001).all()


@pytest.mark.parametrize(
    ("grid", "schedule", "steps", "message"),
    [
        (UniformGrid(), DDPM, 1001, "at most 1000 steps"),
        (LeadingGrid(), RectifiedFlowSchedule(), 10, "discrete schedule"),
        (UniformGrid(sigma_max=1.0), DDPM, 300, "at most 259 steps"),
        (
            LogSnrGrid(sigma_max=0.001),
            RectifiedFlowSchedule(),
            10,
            "a larger sampler.grid.sigma_max",
        ),
        (KarrasGrid(snap=True), DDPM, 500, "snap = false"),
        (TrailingGrid(last="first_level"), DDPM, 1000, "last = clean"),
        (TrailingGrid(last="first_level"), RectifiedFlowSchedule(), 600, "last = clean"),
    ],
)
def test_impossible_grids_are_refused(
    grid: SamplingGrid, schedule: LinearBetaSchedule, steps: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(schedule, steps)


@pytest.mark.parametrize("grid", [KarrasGrid(), LogSnrGrid()])
def test_grids_of_noise_levels_start_at_80_where_the_schedule_goes_beyond(
    grid: SamplingGrid,
) -> None:
    """Karras et al. 2022, table 1, also for the cosine schedule (their j_0 = 8)."""
    assert grid(RectifiedFlowSchedule(), 10)[0].item() == pytest.approx(80 / 81, rel=1e-9)
    for schedule in (CosineSchedule(), DDPM, ZeroTerminalSnrSchedule()):
        start = schedule.log_snr(grid(schedule, 10)[0])
        assert (-start / 2).exp().item() == pytest.approx(80, rel=1e-9)
    less = EDMSchedule(sigma_max=10.0)
    assert grid(less, 10)[0].item() == pytest.approx(1, rel=1e-9)


def test_a_trailing_grid_can_end_at_the_first_noise_level() -> None:
    assert TrailingGrid(last="first_level")(DDPM, 2).tolist() == pytest.approx([1, 0.5, 0.001])
    edm = TrailingGrid(last="first_level")(EDMSchedule(), 2)
    assert edm.tolist() == pytest.approx([1, 0.5, 0.002 / 80])


def test_grids_of_times_start_where_they_are_told() -> None:
    """The cosine schedule has sigma / alpha = 80 between its steps 991 and 992 of 1000."""
    cosine = CosineSchedule()
    assert (UniformGrid(sigma_max=80)(cosine, 3) * 1000).tolist() == pytest.approx([992, 496, 1, 0])
    assert (TrailingGrid(sigma_max=80)(cosine, 4) * 1000).tolist() == pytest.approx(
        [992, 744, 496, 248, 0]
    )
    assert (LeadingGrid(sigma_max=80)(cosine, 3) * 1000).tolist() == pytest.approx([661, 331, 1, 0])
    flow = TrailingGrid(sigma_max=3)(RectifiedFlowSchedule(), 3)
    assert flow.tolist() == pytest.approx([0.75, 0.5, 0.25, 0])
    assert torch.equal(UniformGrid(sigma_max=1000)(DDPM, 5), UniformGrid()(DDPM, 5))
