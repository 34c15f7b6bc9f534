"""The doctor: divergence is rolled back once, and every kind of trouble has its words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from sfumato.core.errors import RunError
from sfumato.experiment.training_run import train
from sfumato.runs.directory import read_metrics
from sfumato.training.averages import AveragedWeights, ExponentialAverage
from sfumato.training.doctor import Diverged, Doctor
from sfumato.training.trainer import Pace, Trainer
from sfumato.training.training_state import initial_state
from support.experiments import DIFFUSION, experiment
from support.processes import silent

QUIET = {"sample_images": 0, "log_images": 16}


@pytest.fixture
def diverge(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float, bool], None]:
    """Spoil the losses of one step; for good, or at the full learning rate only."""
    real = Trainer._losses

    def install(at: int, factor: float, always: bool) -> None:
        def losses(self: Trainer, *arguments: Any) -> Float[Tensor, " B"]:
            found = real(self, *arguments)
            if self.state.images != at or (self.state.rate_factor < 1 and not always):
                return found
            self.means._totals["loss/denoiser"][0] *= factor
            return found * factor

        monkeypatch.setattr(Trainer, "_losses", losses)

    return install


def final(run_dir: Path) -> dict[str, Tensor]:
    return load_file(run_dir / "final.safetensors")


def rows(run_dir: Path) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e6], ids=str)
def test_divergence_is_rolled_back_and_the_rate_lowered(
    tmp_path: Path, diverge: Callable[[int, float, bool], None], factor: float
) -> None:
    diverge(80, factor, False)
    heard: list[str] = []
    train(experiment(DIFFUSION, **QUIET), tmp_path / "run", log=heard.append)
    assert len(heard) == 1
    assert "diverged at 96 images: the loss of denoiser" in heard[0]
    assert "went back to 64 images and on with 0.3 times the learning rate" in heard[0]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["warnings"] == heard
    assert summary["rate_factor"] == 0.3
    assert [row["images"] for row in rows(tmp_path / "run")] == list(range(16, 129, 16))
    assert all(row["loss/denoiser"] < 10 for row in rows(tmp_path / "run"))


@pytest.mark.parametrize("stop", [64, 96])
def test_a_run_that_diverged_resumes_exactly(
    tmp_path: Path, diverge: Callable[[int, float, bool], None], stop: int
) -> None:
    """Stopped before the divergence, and after it: memory of it is in the checkpoints."""
    diverge(80, float("nan"), False)
    train(experiment(DIFFUSION, **QUIET), tmp_path / "whole", log=silent)
    half = experiment(DIFFUSION, **QUIET, budget_images=stop, decay_images=128)
    train(half, tmp_path / "parts", log=silent)
    train(
        experiment(DIFFUSION, **QUIET, decay_images=128),
        tmp_path / "parts",
        resume=True,
        log=silent,
    )
    expected, found = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_run_that_diverges_again_stops_with_the_reason(tmp_path: Path) -> None:
    """A real one: plain gradient descent at an absurd rate."""
    config = experiment(
        DIFFUSION, **QUIET, learning_rate=1e12, optimizer={"kind": "sgd"}, clip_gradient=None
    )
    with pytest.raises(RunError, match=r"diverged again at .*0\.3 of 1e\+12.*learning_rate"):
        train(config, tmp_path / "run", log=silent)
    good = load_file(max((tmp_path / "run" / "checkpoints").glob("*.safetensors")))
    assert all(torch.isfinite(t).all() for t in good.values())


def doctor(data: Tensor | None = None) -> tuple[Doctor, list[str]]:
    heard: list[str] = []
    photos = torch.randint(0, 256, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    some = photos.to(torch.uint8) if data is None else data
    return Doctor(initial_state(), heard.append, some), heard


def test_only_a_loss_far_above_all_before_has_exploded() -> None:
    patient, _ = doctor()
    patient.check_losses({"loss/a": 1e9})  # the first row: nothing to compare with
    patient.remember({"loss/a": 5.0, "loss_by_log_snr/-3 to 0": 1.0})
    patient.check_losses({"loss/a": -499.0, "loss_by_log_snr/-3 to 0": 1e9})
    with pytest.raises(Diverged, match="exploded to 501"):
        patient.check_losses({"loss/a": 501.0})
    patient.remember({"loss/b": 1e-6})
    patient.check_losses({"loss/b": 99.0})  # a small loss may grow
    with pytest.raises(Diverged, match="the loss of b is nan"):
        patient.check_losses({"loss/a": 1.0, "loss/b": float("nan")})


def test_images_outside_the_range_are_noticed_once() -> None:
    patient, heard = doctor()
    patient.check_images(torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2))
    assert heard == []
    for _ in range(2):
        patient.check_images(torch.tensor([0.0, 255.0]).reshape(1, 1, 1, 2))
    assert len(heard) == 1
    assert "from 0 to 255, outside [-1, 1]" in heard[0]


def test_saturated_and_constant_samples_are_noticed() -> None:
    patient, heard = doctor()
    generator = torch.Generator().manual_seed(1)
    fair = torch.randint(0, 256, (32, 1, 8, 8), generator=generator).to(torch.uint8)
    patient.state.images = 10
    patient.check_samples(fair)
    assert heard == []
    patient.state.images = 10
    patient.check_samples((fair > 127).to(torch.uint8) * 255)
    patient.state.images = 20
    patient.check_samples(fair[:1].expand(32, 1, 8, 8))
    assert [message.split(":")[0] for message in heard] == [
        "the samples are saturated at 10 images",
        "the samples are nearly identical at 20 images",
    ]


def test_the_same_trouble_is_told_once_and_kept_with_its_newest_numbers() -> None:
    patient, heard = doctor()
    ink = (torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(2)) > 0.5) * 255
    for images in (1_000, 20_000):
        patient.state.images = images
        patient.check_samples(ink.to(torch.uint8))
    assert [message.split(":")[0] for message in heard] == [
        "the samples are saturated at 1,000 images"
    ]
    assert [message.split(":")[0] for message in patient.state.warnings] == [
        "the samples are saturated at 20,000 images"
    ]


def test_data_that_are_black_and_white_are_not_saturated() -> None:
    ink = (torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(2)) > 0.5) * 255
    patient, heard = doctor(ink.to(torch.uint8))
    patient.state.images = 10
    patient.check_samples(ink.to(torch.uint8))
    assert heard == []


def test_an_average_of_untrained_weights_is_noticed() -> None:
    module = torch.nn.Linear(1, 1)
    patient, heard = doctor()
    ramped = AveragedWeights(module, ExponentialAverage(half_life_images=500_000))
    patient.state.images = 1_000
    patient.check_averages([ramped])
    assert heard == []  # the ramp-up keeps it at 50 images
    slow = AveragedWeights(module, ExponentialAverage(half_life_images=500_000, rampup=1e9))
    patient.state.images = 1_000
    patient.check_averages([slow])
    assert "half-life of 500,000 images, longer than the run so far" in heard[0]


def test_slow_data_are_noticed() -> None:
    patient, heard = doctor()
    patient.check_pace(Pace(waited=0.4, passed=1.0))
    assert heard == []
    patient.check_pace(Pace(waited=0.6, passed=1.0))
    assert "data are slower than the model" in heard[0]


def test_a_model_can_warn_for_itself() -> None:
    class Worried(torch.nn.Module):
        def warnings(self) -> list[str]:
            return ["the critic is far ahead; lower its learning rate"]

    patient, heard = doctor()
    patient.ask(torch.nn.Linear(1, 1))
    patient.ask(Worried())
    patient.ask(Worried())
    assert heard == ["the critic is far ahead; lower its learning rate"]
