"""Grids against the formulas of their papers."""

import pytest
import torch

from diffusion.ideal import at
from sfumato.core.errors import ConfigError
from sfumato.diffusion.continuous_schedules import EDMSchedule, RectifiedFlowSchedule
from sfumato.diffusion.discrete_schedules import (
    LinearBetaSchedule,
    ZeroTerminalSnrSchedule,
)
from sfumato.diffusion.grid import (
    Grid,
    KarrasGrid,
    LeadingGrid,
    LogSnrGrid,
    TrailingGrid,
    UniformGrid,
)

DDPM = LinearBetaSchedule()


def test_the_spacings_of_lin_et_al_table_2() -> None:
    """T = 1000, 10 steps, 1-based; the step to clean data is our addition."""

    def steps(grid: Grid) -> list[int]:
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


@pytest.mark.parametrize("grid", [LogSnrGrid(), LogSnrGrid(snap=True)])
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
        (KarrasGrid(), RectifiedFlowSchedule(), 10, "sigma_max"),
        (LogSnrGrid(), ZeroTerminalSnrSchedule(), 10, "infinite at t = 1"),
        (KarrasGrid(snap=True), DDPM, 500, "snap = false"),
    ],
)
def test_impossible_grids_are_refused(
    grid: Grid, schedule: LinearBetaSchedule, steps: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(schedule, steps)


def test_a_window_makes_the_grid_finite_where_the_schedule_is_not() -> None:
    times = KarrasGrid(sigma_max=80.0)(RectifiedFlowSchedule(), 10)
    assert times[0].item() == pytest.approx(80 / 81, rel=1e-9)
