"""What a run can be asked for: float16, recomputation, noise levels, loggers, scores, snapshots."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.integrate import simpson

from sfumato.core.config import to_mapping
from sfumato.core.errors import ConfigError, RunError
from sfumato.core.files import write_json
from sfumato.experiment.training_run import OnlineScore, train
from sfumato.runs.directory import read_metrics
from sfumato.training.averages import (
    AveragedWeights,
    PowerAverage,
    Profile,
    coefficients,
    gamma_of_relative_std,
    inner_product,
    reconstruct,
    snapshot_path,
    write_snapshots,
)
from sfumato.training.loggers import open_loggers
from sfumato.training.training_state import BIN_NAMES, LossMeans
from support.experiments import DIFFUSION, GAN, experiment
from support.processes import silent

QUIET = {"sample_images": 0}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("plain") / "run"
    train(experiment(DIFFUSION, **QUIET), run_dir, log=silent)
    return run_dir


def final(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "final.safetensors")


def test_recomputed_activations_change_nothing(plain: Path, tmp_path: Path) -> None:
    """Bit for bit, dropout included: its masks are drawn again from the same state."""
    train(experiment(DIFFUSION, **QUIET, recompute_activations=True), tmp_path / "r", log=silent)
    expected, found = final(plain), final(tmp_path / "r")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_recomputation_keeps_less_for_the_backward_pass() -> None:
    from sfumato.core.generative_model import recompute_activations
    from sfumato.networks.unet import UNetConfig

    network = UNetConfig(channels=8, multipliers=(1,), attention=()).build((1, 8, 8), 0)

    def kept() -> int:
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.zeros(4, 1, 8, 8), torch.zeros(4))
        return sum(sizes)

    before = kept()
    recompute_activations(network)
    assert kept() < before / 4


def test_float16_follows_float32_and_resumes_exactly(plain: Path, tmp_path: Path) -> None:
    half = {**QUIET, "precision": "float16"}
    train(experiment(DIFFUSION, **half), tmp_path / "whole", log=silent)
    train(
        experiment(DIFFUSION, **half, budget_images=64, decay_images=128),
        tmp_path / "parts",
        log=silent,
    )
    train(
        experiment(DIFFUSION, **half, decay_images=128),
        tmp_path / "parts",
        resume=True,
        log=silent,
    )
    expected, found = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    curves = [read_metrics(d / "metrics.jsonl") for d in (plain, tmp_path / "whole")]
    for row, other in zip(*curves, strict=True):
        assert other["loss/denoiser"] == pytest.approx(row["loss/denoiser"], rel=0.01)
    single = final(plain)
    assert not all(torch.equal(single[name], expected[name]) for name in expected)
    record = max((tmp_path / "whole" / "checkpoints").glob("*.json")).read_text()
    assert json.loads(record)["state"]["loss_scale"] == [65536.0, 8]


def test_losses_fall_into_the_bin_of_their_noise_level() -> None:
    means = LossMeans(torch.device("cpu"))
    log_snr = torch.tensor([-20.0, -9.5, -1.0, 0.5, 2.0, float("inf")], dtype=torch.float64)
    means.add_levels(torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0, 11.0]), log_snr)
    means.add_levels(torch.tensor([4.0]), torch.tensor([1.0], dtype=torch.float64))
    means.add("denoiser", torch.tensor([2.0, 4.0]))
    means.add("denoiser", torch.tensor([9.0]))
    assert means.means() == pytest.approx(
        {
            "loss_by_log_snr/-inf to -9": 2.0,
            "loss_by_log_snr/-3 to 0": 5.0,
            "loss_by_log_snr/0 to 3": 20 / 3,
            "loss_by_log_snr/9 to inf": 11.0,
            "loss/denoiser": 5.0,
        }
    )
    means.clear()
    assert means.means() == {}


def test_the_log_has_losses_by_noise_level_whose_mean_is_the_loss(plain: Path) -> None:
    row = read_metrics(plain / "metrics.jsonl")[0]
    levels = [row[name] for name in BIN_NAMES if name in row]
    assert len(levels) >= 5
    assert min(levels) <= row["loss/denoiser"] <= max(levels)


def test_tensorboard_has_the_rows_of_the_log(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    half = experiment(DIFFUSION, **QUIET, tensorboard=True, budget_images=64, decay_images=128)
    train(half, tmp_path / "run", log=silent)
    whole = experiment(DIFFUSION, **QUIET, tensorboard=True, decay_images=128)
    train(whole, tmp_path / "run", resume=True, log=silent)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    found = {event.step: event.value for event in events.Scalars("loss/denoiser")}
    assert found == pytest.approx({row["images"]: row["loss/denoiser"] for row in rows})
    assert "custom_scalars__config__" in events.Tags()["tensors"]  # the distance with its floor


def test_weights_and_biases_gets_the_rows_or_is_missed_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(DIFFUSION, wandb=True)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunError, match=r"pip install 'sfumato\[wandb\]'"):
        open_loggers(tmp_path, config.training, to_mapping(config), 0)
    sent: list[Any] = []
    run = SimpleNamespace(log=lambda row, step: sent.append((step, row)), finish=sent.clear)
    fake = SimpleNamespace(init=lambda **settings: sent.append(settings["id"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write_json(tmp_path / "environment.json", {"id": "0123"})
    (logger,) = open_loggers(tmp_path, config.training, to_mapping(config), 0)
    logger.write({"images": 32, "loss/denoiser": 0.5})
    assert sent == [f"{tmp_path.name}-0123", (32, {"images": 32, "loss/denoiser": 0.5})]


@pytest.mark.parametrize("base", [DIFFUSION, GAN], ids=["diffusion", "gan"])
def test_the_distance_is_measured_and_the_best_kept(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a scripted distance, so that the second of four measurements is the best."""
    script = iter([30.0, 10.0, 20.0, 40.0])

    class Scripted:
        def __init__(self, *arguments: Any) -> None:
            pass

        def look(self, model: torch.nn.Module) -> OnlineScore:
            assert not model.training
            return OnlineScore(
                {"frechet_distance": next(script), "frechet_floor": 2.0}, {}, 0.0, 0.0
            )

    monkeypatch.setattr("sfumato.experiment.training_run.OnlineScores", Scripted)
    config = experiment(base, **QUIET, score_images=32, checkpoint_images=16, keep_checkpoints=1)
    train(config, tmp_path / "run", log=silent)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    scored = {row["images"]: row["frechet_distance"] for row in rows if "frechet_distance" in row}
    assert scored == {32: 30.0, 64: 10.0, 96: 20.0, 128: 40.0}
    kept = sorted(int(p.stem) for p in (tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    assert kept == [64, 128]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["best"] == {"images": 64, "frechet_distance": 10.0}
    best = load_file(tmp_path / "run" / "best.safetensors")
    state = load_file(tmp_path / "run" / "checkpoints" / "000000000064.safetensors")
    prefix = "average/0/"
    averaged = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
    sampled = "denoiser." if base is DIFFUSION else "generator."
    assert averaged
    assert all(torch.equal(best[sampled + name], tensor) for name, tensor in averaged.items())


def test_the_distance_in_training_is_that_of_the_evaluator(tmp_path: Path) -> None:
    """What is logged at the end equals the score of the finished run."""
    from sfumato.data.catalogue import load
    from sfumato.evaluation.reference import HeldOut
    from sfumato.experiment.score_run import score_run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.evaluation.judge.REPEATS", 1)
        patch.setattr("sfumato.evaluation.judge.SHORTEST", 0)
        patch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
        config = experiment(DIFFUSION, **QUIET, score_images=128)
        train(config, tmp_path / "run", log=silent)
        scored = score_run(tmp_path / "run", HeldOut(load(config.data), config.evaluation))
    row = next(r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "frechet_floor" in r)
    expected = scored["scores"]["frechet_distance"]["value"]
    assert row["frechet_distance"] == pytest.approx(expected, rel=1e-6)
    floor = next(m["floor"]["value"] for m in scored["metrics"] if m["key"] == "frechet_distance")
    assert row["frechet_floor"] == pytest.approx(floor, rel=1e-6)


def test_the_product_of_profiles_is_that_of_numerical_integration() -> None:
    a, b = Profile(3_000, 16.97), Profile(5_000, 6.94)
    s = np.linspace(0, 3_000, 200_001)

    def density(profile: Profile) -> np.ndarray:
        return (profile.gamma + 1) / profile.images * (s / profile.images) ** profile.gamma

    expected = simpson(density(a) * density(b), x=s)
    assert inner_product(a, b) == pytest.approx(expected, rel=1e-6)
    assert inner_product(b, a) == inner_product(a, b)


def test_a_stored_profile_is_reconstructed_from_itself() -> None:
    stored = [Profile(images, gamma) for gamma in (16.97, 6.94) for images in (100, 200, 300)]
    for index, target in enumerate(stored):
        expected = np.eye(len(stored))[index]
        assert coefficients(stored, target) == pytest.approx(expected, abs=1e-6)


def test_an_average_of_another_width_is_reconstructed_after_the_run(tmp_path: Path) -> None:
    """Weights that move as s^2 have the power average t^2 (g + 1) / (g + 3): known exactly."""
    config = experiment(
        DIFFUSION,
        averages=[{"kind": "power", "relative_std": std} for std in (0.05, 0.1)],
        snapshot_images=1,
    )
    from sfumato.runs.directory import create

    (tmp_path / "run").mkdir()
    create(tmp_path / "run", to_mapping(config), environment={})
    module = torch.nn.Linear(1, 1, bias=False)
    averages = [AveragedWeights(module, PowerAverage(relative_std=s)) for s in (0.05, 0.1)]
    batch, steps = 10, 2_000
    for step in range(1, steps + 1):
        torch.nn.init.constant_(module.weight, (step / steps) ** 2)
        for average in averages:
            average.update(step * batch, batch)
        if step % 250 == 0:
            write_snapshots(tmp_path / "run", step * batch, averages)
    assert len(list((tmp_path / "run" / "snapshots").iterdir())) == 16
    for width in (0.05, 0.07, 0.1, 0.13):
        gamma = gamma_of_relative_std(width)
        found = reconstruct(tmp_path / "run", width)["weight"].item()
        assert found == pytest.approx((gamma + 1) / (gamma + 3), rel=2e-3), width
    earlier = reconstruct(tmp_path / "run", 0.07, images=15_000)["weight"].item()
    gamma = gamma_of_relative_std(0.07)
    assert earlier == pytest.approx(0.75**2 * (gamma + 1) / (gamma + 3), rel=5e-3)
    assert snapshot_path(tmp_path / "run", 20_000, 0.05).exists()
    with pytest.raises(RunError, match=r"no snapshots .* that reach 99 images"):
        reconstruct(tmp_path / "run", 0.07, images=99)


def test_a_run_without_snapshots_says_what_to_set(plain: Path) -> None:
    with pytest.raises(RunError, match=r"training\.snapshot_images"):
        reconstruct(plain, 0.1)
    with pytest.raises(ConfigError, match="needs two power averages"):
        experiment(DIFFUSION, snapshot_images=10)
    with pytest.raises(ConfigError, match="use bfloat16"):
        experiment(DIFFUSION, shard=True, precision="float16")
