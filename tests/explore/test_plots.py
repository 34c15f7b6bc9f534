"""Curves of schedules against the papers' formulas, and noised images with known statistics."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from sfumato.core.errors import ConfigError
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
from sfumato.diffusion.schedules import EDMSchedule, LinearBetaSchedule, RectifiedFlowSchedule
from sfumato.explore.plots import (
    forward_images,
    one_of_each_class,
    plot_forward,
    plot_schedules,
    schedule_curves,
    schedule_of,
)


@pytest.mark.parametrize("num_steps", [500, 1000, 1500, 4000])
def test_curves_of_ddpm_are_its_betas(num_steps: int) -> None:
    curves = schedule_curves(LinearBetaSchedule(num_steps=num_steps))
    beta = torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64)
    torch.testing.assert_close(curves.beta, beta, rtol=1e-9, atol=0)
    torch.testing.assert_close(curves.alpha_bar, (1 - beta).cumprod(0), rtol=1e-9, atol=0)
    assert curves.t[0].item() == pytest.approx(1 / num_steps)


def test_other_scalings_are_drawn_as_if_variance_preserving() -> None:
    """sigma = 80 t has alpha-bar 1 / (1 + sigma^2); rectified flow ends in pure noise."""
    edm = schedule_curves(EDMSchedule())
    torch.testing.assert_close(edm.alpha_bar, 1 / (1 + (80 * edm.t) ** 2))
    flow = schedule_curves(RectifiedFlowSchedule())
    assert flow.alpha_bar[499].item() == pytest.approx(0.5)
    assert flow.log_snr[-1].item() == -math.inf
    assert flow.beta[-1].item() == 1.0


def test_a_schedule_is_described_in_a_word() -> None:
    assert schedule_of("linear_beta:num_steps=500") == LinearBetaSchedule(num_steps=500)
    nested = schedule_of("zero_terminal_snr:base.kind=linear_beta,base.num_steps=20")
    assert nested.table is not None
    assert nested.table.num_steps == 20
    assert nested.table.has_zero_terminal_snr
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        schedule_of("cosin")
    with pytest.raises(ConfigError, match="did you mean 'offset'"):
        schedule_of("cosine:ofset=0.1")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_schedules_are_drawn(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"schedules{suffix}"
    plot_schedules({name: schedule_of(name) for name in ("linear_beta", "rectified_flow")}, path)
    if suffix == ".png":
        with Image.open(path) as picture:
            assert picture.width > 2 * picture.height
    else:
        assert "rectified_flow" in path.read_text()
    with pytest.raises(ConfigError, match="end it in one of"):
        plot_schedules({"cosine": schedule_of("cosine")}, tmp_path / "a.jpeg")


def test_the_forward_process_begins_with_the_image_and_ends_with_its_noise() -> None:
    schedule = EDMSchedule()
    x_0 = torch.full((2, 1, 64, 64), 0.5)
    shown = forward_images(schedule, x_0, [0.0, 0.05, 1.0], seed=3)
    assert torch.equal(shown[0], x_0)
    unclipped = shown[2].abs() < 1
    noise = torch.stack([torch.randn(1, 64, 64, generator=_seeded(k)) for k in (3, 4)])
    torch.testing.assert_close(shown[2][unclipped], noise[unclipped], rtol=0, atol=0.01)
    with pytest.raises(ConfigError, match=r"time 1.5 is not in \[0, 1\]"):
        forward_images(schedule, x_0, [1.5])


def test_the_forward_process_is_drawn_on_real_images(tmp_path: Path) -> None:
    held_out = load(DataConfig(source="digits")).held_out
    chosen = one_of_each_class(held_out, 12)
    assert held_out.labels is not None
    assert held_out.labels[chosen].tolist() == [*range(10), 0, 1]
    path = tmp_path / "forward.png"
    plot_forward(LinearBetaSchedule(), torch.from_numpy(held_out.images[chosen[:2]]), [0, 1], path)
    with Image.open(path) as picture:
        assert picture.height > 100


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
