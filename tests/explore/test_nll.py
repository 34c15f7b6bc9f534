"""Likelihoods of a run: exact for an ideal denoiser; both splits; a file and a table."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffusion.ideal import IdealDenoiser, Mixture
from sfumato.core.errors import ConfigError, RunError
from sfumato.core.images import Batch
from sfumato.core.noise import Noise
from sfumato.diffusion.noise_schedule import NoiseSchedule
from sfumato.diffusion.parameterization import VParameterization
from sfumato.diffusion.schedules import (
    ContinuousCosineSchedule,
    CosineSchedule,
    ZeroTerminalSnrSchedule,
)
from sfumato.experiment.score_run import load_with_data
from sfumato.experiment.training_run import train
from sfumato.explore.nll import LikelihoodConfig, likelihood, nll, nll_table
from support.experiments import DIFFUSION, GAN, experiment

DATA = Mixture((1.0,), (0.1,), (0.2,))


def quantized(count: int) -> torch.Tensor:
    levels = (DATA.sample((count, 1, 4, 4), torch.Generator().manual_seed(1)) + 1) * 127.5
    return levels.round().clamp(0, 255) / 127.5 - 1


def batches(x_0: torch.Tensor, size: int) -> Iterator[tuple[Batch, Noise]]:
    for start in range(0, len(x_0), size):
        part = x_0[start : start + size]
        yield Batch(part), Noise(range(start, start + len(part)))


@pytest.mark.parametrize("schedule", [CosineSchedule(num_steps=400), ContinuousCosineSchedule()])
def test_likelihood_of_the_ideal_denoiser_is_exact(schedule: NoiseSchedule) -> None:
    x_0 = quantized(64)
    denoiser = IdealDenoiser(DATA, schedule, VParameterization())
    config = LikelihoodConfig(steps=400, fixed_variance="large", tolerance=1e-5)
    found = likelihood(denoiser, batches(x_0, 40), config)
    exact = -DATA.log_density(x_0).mean().item() / math.log(2) + math.log2(127.5)
    assert found.terms["bound"].value == pytest.approx(exact, abs=0.04)
    assert found.terms["ode"].value == pytest.approx(exact, abs=0.01)
    parts = sum(found.terms[key].value for key in ("prior", "steps", "decoder"))
    assert parts == pytest.approx(found.terms["bound"].value)
    assert found.terms["ode"].n == 64
    # The mean of 16 dimensions of x^2 / 2 varies by sqrt(2 / 16) / 2 nats from image to image.
    spread = math.sqrt(2 / 16) / 2 / math.log(2) / math.sqrt(64)
    assert found.terms["ode"].standard_error == pytest.approx(spread, rel=0.25)


def test_the_trace_can_be_exact() -> None:
    """Pixels are independent here, so that the estimate with random signs is exact, too."""
    denoiser = IdealDenoiser(DATA, ContinuousCosineSchedule(), VParameterization())
    estimated, exact = (
        likelihood(denoiser, batches(quantized(4), 4), LikelihoodConfig(steps=2, trace=trace))
        for trace in ("hutchinson", "exact")
    )
    assert exact.terms["ode"].value == pytest.approx(estimated.terms["ode"].value, abs=1e-6)


def test_zero_terminal_snr_has_a_bound_but_no_ode_likelihood() -> None:
    schedule = ZeroTerminalSnrSchedule(base=CosineSchedule(num_steps=50))
    denoiser = IdealDenoiser(DATA, schedule, VParameterization())
    found = likelihood(denoiser, batches(quantized(4), 4), LikelihoodConfig())
    assert "ode" not in found.terms
    assert found.terms["prior"].value == 0


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tiny"
    base = DIFFUSION | {
        "model": DIFFUSION["model"] | {"schedule": {"kind": "linear_beta", "num_steps": 20}}
    }
    return train(experiment(base, sample_images=0), path).directory


def test_both_splits_side_by_side(run_dir: Path) -> None:
    loaded, splits = load_with_data(run_dir, [])
    config = LikelihoodConfig(num_images=6, batch_size=4, tolerance=1e-2)
    result = nll(loaded, splits, config)
    assert json.loads((run_dir / "nll.json").read_text()) == result
    for key in ("prior", "steps", "decoder", "bound", "ode"):
        gap = result["held_out"][key]["value"] - result["train"][key]["value"]
        assert result["gap"][key]["value"] == pytest.approx(gap)
    assert result["steps"] == 20
    table = nll_table(result)
    assert "held-out" in table
    assert "tolerance 0.01" in table
    assert f"{result['train']['decoder']['value']:.4f}" in table
    # Another size of batches changes nothing but the solver's steps.
    again = nll(loaded, splits, replace(config, batch_size=6))
    assert again["train"]["bound"]["value"] == pytest.approx(result["train"]["bound"]["value"])


def test_nonsense_is_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'num_images' is 1; it should be at least 2"):
        LikelihoodConfig(num_images=1)
    with pytest.raises(RunError, match=r"model\.sampler"):
        load_with_data(run_dir, ["model.label_dropout=0.2"])
    gan = train(experiment(GAN, sample_images=0), tmp_path / "gan").directory
    with pytest.raises(RunError, match=r"likelihood .* needs a diffusion model, .* 'gan'"):
        nll(*load_with_data(gan, []), LikelihoodConfig())
