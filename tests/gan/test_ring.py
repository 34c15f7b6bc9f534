"""The harness for the 8-Gaussian ring of Metz et al. 2017."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gan_toy.py"


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gan_toy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gan_toy"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_mode_counts_from_one_percent_of_the_samples_within_three_sigma(toy: ModuleType) -> None:
    ring = toy.ring()
    points = ring.centres.repeat_interleave(torch.tensor([901, 10, 9, 20, 20, 20, 20, 0]), dim=0)
    points[901:911] += 0.04  # 2.8 sigma away: still near
    points[-20:] += 0.06  # 4.2 sigma away
    assert len(points) == 1000
    modes, good = ring.covered(points)
    assert modes == 5  # not that of 9 points, not the distant one, not the empty one
    assert good == pytest.approx(0.98)


def test_the_mixtures_are_where_they_should_be(toy: ModuleType) -> None:
    for mixture, radius, modes in ((toy.ring(), 2.0, 8), (toy.grid(), 8**0.5, 25)):
        points = mixture.draw(20_000, torch.Generator().manual_seed(0))
        assert points.norm(dim=1).max().item() == pytest.approx(radius, abs=0.12)
        found, good = mixture.covered(points)
        assert found == modes
        assert good == pytest.approx(1 - 0.0111, abs=0.003)  # exp(-9 / 2) of a plane lies beyond


def test_the_script_writes_its_figure_and_table(toy: ModuleType, tmp_path: Path) -> None:
    """A few steps of every arm: the phases of the package run on points."""
    toy.main(["--seeds", "1", "--steps", "5", "--output", str(tmp_path)])
    table = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == list(toy.arms())
    points = {f"{name}-0.npz" for name in toy.arms()}
    written = {"figure.png", "results.json", "table.md"}
    assert {path.name for path in tmp_path.iterdir()} == written | points


@pytest.mark.slow
def test_the_plain_gan_loses_modes_that_the_unrolled_one_finds(toy: ModuleType) -> None:
    """The same settings but for the steps ahead; a minute or two of one core."""
    arms = toy.arms()
    assert toy.measure(arms["plain"], 0)["modes"] < 8
    found = toy.measure(arms["unrolled-5"], 0)
    assert found["modes"] == 8
    assert found["good"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wgan-gp", "wgan-gp-grid"])
def test_a_critic_with_gradient_penalty_covers_all_modes(toy: ModuleType, name: str) -> None:
    """Two to four minutes of one core each."""
    arm = toy.arms()[name]
    assert toy.measure(arm, 0)["modes"] == len(arm.mixture.centres)
