"""The trainer: exact resume, accumulation, phases, refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sfumato.core.errors import RunError
from sfumato.core.generative_model import GenerativeModel, OnStep, Phase
from sfumato.core.images import Batch
from sfumato.core.noise import RandomStream
from sfumato.experiment.load import load_run
from sfumato.experiment.training_run import train
from sfumato.runs.directory import locked, read_metrics
from sfumato.speed.sampling import sample_images
from sfumato.training.optimizer import SGD, CosineRate
from sfumato.training.trainer import Trainer
from sfumato.training.training_config import TrainingConfig
from support.experiments import DIFFUSION, GAN, experiment
from support.processes import silent


def tensors(run_dir: Path) -> dict[str, torch.Tensor]:
    """The whole state at the end of a run."""
    newest = max((run_dir / "checkpoints").glob("*.safetensors"))
    return load_file(newest) | {
        f"final/{k}": v for k, v in load_file(run_dir / "final.safetensors").items()
    }


def without_times(path: Path) -> list[dict[str, float]]:
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in read_metrics(path)
    ]


@pytest.mark.parametrize("base", [DIFFUSION, GAN], ids=["diffusion", "gan"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    base: dict[str, Any], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(experiment(base, rate={"kind": "cosine"}), whole, log=silent)
    # Stopped at 64 images, extended to 128: the decay keeps the length it is given.
    train(
        experiment(base, rate={"kind": "cosine"}, budget_images=64, decay_images=128),
        parts,
        log=silent,
    )
    train(
        experiment(base, rate={"kind": "cosine"}, decay_images=128),
        parts,
        resume=True,
        log=silent,
    )
    expected, found = tensors(whole), tensors(parts)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert without_times(whole / "metrics.jsonl") == without_times(parts / "metrics.jsonl")
    for picture in sorted((whole / "samples").iterdir()):
        assert picture.read_bytes() == (parts / "samples" / picture.name).read_bytes()


def test_work_after_the_last_checkpoint_is_done_again_identically(tmp_path: Path) -> None:
    """A crash leaves log rows and pictures of steps that the checkpoint does not know."""
    whole, crashed = tmp_path / "whole", tmp_path / "crashed"
    config = experiment(DIFFUSION, keep_checkpoints=10)
    train(config, whole, log=silent)
    train(config, crashed, log=silent)
    for path in (crashed / "checkpoints").iterdir():
        if int(path.stem) > 64:
            path.unlink()
    with (crashed / "metrics.jsonl").open("a") as log:
        log.write('{"images": 96, "los')
    train(config, crashed, resume=True, log=silent)
    expected, found = tensors(whole), tensors(crashed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert without_times(whole / "metrics.jsonl") == without_times(crashed / "metrics.jsonl")


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """Without dropout, whose masks differ, only rounding separates them."""
    finals = []
    for size in (None, 5):
        base = json.loads(json.dumps(DIFFUSION))
        base["model"]["network"]["dropout"] = 0.0
        config = experiment(base, micro_batch_size=size, optimizer={"kind": "sgd"})
        run_dir = tmp_path / str(size)
        train(config, run_dir, log=silent)
        finals.append(load_file(run_dir / "final.safetensors"))
    for name, expected in finals[0].items():
        torch.testing.assert_close(finals[1][name], expected, atol=1e-6, rtol=1e-4)


class TwoPhases(GenerativeModel):
    """A toy whose gradients are known: each phase pulls its own weight with slope 1."""

    image_shape = (1, 1, 1)
    num_classes = 0
    nfe = 1

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(1, 1, bias=False)
        self.b = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.a.weight)
        torch.nn.init.zeros_(self.b.weight)

    @property
    def sampled_module(self) -> torch.nn.Module:
        return self.a

    def phases(self) -> list[Phase]:
        return [
            Phase("a", self.a, self._total),
            Phase("b", self.b, self._total, every=4),
        ]

    def _total(self, batch: Batch, noise: RandomStream) -> torch.Tensor:
        return (self.a.weight + self.b.weight).flatten().expand(len(batch))

    def sample(
        self, labels: torch.Tensor | None, noise: RandomStream, on_step: OnStep | None = None
    ) -> torch.Tensor:
        return torch.zeros(len(noise), 1, 1, 1)


def test_a_phase_moves_its_own_module_and_a_lazy_one_is_scaled() -> None:
    config = TrainingConfig(
        batch_size=2,
        budget_steps=8,
        learning_rate=1.0,
        optimizer=SGD(momentum=0.0),
        clip_gradient=None,
        averages=(),
    )
    model = TwoPhases()
    trainer = Trainer(config, model, torch.device("cpu"))
    for _ in range(8):
        trainer.step(Batch(torch.zeros(2, 1, 1, 1)))
    # Phase b ran at steps 0 and 4 only, with four times the loss: both moved by 8.
    assert model.a.weight.item() == pytest.approx(-8.0)
    assert model.b.weight.item() == pytest.approx(-8.0)


def test_a_rare_phase_may_be_unscaled_and_is_followed_by_its_afterthought() -> None:
    """As the generator of a WGAN: every fourth step, with its own loss; clipped afterwards."""

    class Clipped(TwoPhases):
        def phases(self) -> list[Phase]:
            return [
                Phase("b", self.b, self._total, every=4, lazy=False),
                Phase("a", self.a, self._total, rate=0.5, after=self._clip),
            ]

        def _clip(self) -> None:
            self.a.weight.data.clamp_(-3.0, 3.0)

    config = TrainingConfig(
        batch_size=2,
        budget_steps=8,
        learning_rate=1.0,
        optimizer=SGD(momentum=0.0),
        averages=(),
    )
    model = Clipped()
    trainer = Trainer(config, model, torch.device("cpu"))
    trainer.step(Batch(torch.zeros(2, 1, 1, 1)))
    assert model.a.weight.item() == pytest.approx(-0.5)
    for _ in range(7):
        trainer.step(Batch(torch.zeros(2, 1, 1, 1)))
    assert model.b.weight.item() == pytest.approx(-2.0)
    assert model.a.weight.item() == pytest.approx(-3.0)


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = TrainingConfig(
        batch_size=10,
        budget_images=100,
        decay_images=100,
        warmup_images=20,
        learning_rate=1.0,
        rate=CosineRate(),
        averages=(),
    )
    trainer = Trainer(config, TwoPhases(), torch.device("cpu"))
    rates = []
    for _ in range(10):
        trainer.step(Batch(torch.zeros(10, 1, 1, 1)))
        rates.append(next(iter(trainer.optimizers.values())).param_groups[0]["lr"])
    cosine = [0.5 * (1 + np.cos(np.pi * i / 10)) for i in range(10)]
    assert rates == pytest.approx([0.5 * cosine[0], cosine[1], *cosine[2:]])


def test_an_existing_directory_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(RunError, match=r"already exists and is not empty.*--resume"):
        train(experiment(DIFFUSION), tmp_path, log=silent)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_resuming_with_a_changed_config_names_the_key(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(experiment(DIFFUSION), run_dir, log=silent)
    with pytest.raises(RunError, match=r"training.learning_rate \(0.0002 -> 0.001\)"):
        train(experiment(DIFFUSION, learning_rate=1e-3), run_dir, resume=True, log=silent)
    train(experiment(DIFFUSION, budget_images=160), run_dir, resume=True, log=silent)
    assert json.loads((run_dir / "summary.json").read_text())["images_seen"] == 160
    assert json.loads((run_dir / "config.json").read_text())["training"]["decay_images"] == 128


def test_resuming_on_changed_images_is_refused(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    source, run_dir = tmp_path / "set.npz", tmp_path / "run"
    base = {**DIFFUSION, "data": {"source": str(source)}}
    np.savez(source, x=images)
    train(experiment(base), run_dir, log=silent)
    longer = experiment(base, budget_images=160)
    np.savez(source, x=images ^ 1)
    with pytest.raises(RunError, match=r"no longer those it began with: digest \(.*--force"):
        train(longer, run_dir, resume=True, log=silent)
    train(longer, run_dir, resume=True, force=True, log=silent)
    assert json.loads((run_dir / "summary.json").read_text())["images_seen"] == 160


def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(experiment(DIFFUSION), run_dir, log=silent)
    newest = max((run_dir / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-100])
    heard: list[str] = []
    expected = load_file(run_dir / "final.safetensors")
    train(experiment(DIFFUSION), run_dir, resume=True, log=heard.append)
    assert "truncated or altered" in heard[0]
    assert "falling back" in heard[0]
    found = load_file(run_dir / "final.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(experiment(DIFFUSION), run_dir, log=silent)
    other = json.loads(json.dumps(DIFFUSION))
    other["model"]["network"]["channels"] = 16
    with pytest.raises(RunError, match=r"tensor 'denoiser.* is of another configuration"):
        train(experiment(other), run_dir, resume=True, force=True, log=silent)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(experiment(DIFFUSION), run_dir, log=silent)
    with locked(run_dir), pytest.raises(RunError, match="another process is working on"):
        train(experiment(DIFFUSION), run_dir, resume=True, log=silent)


@pytest.mark.parametrize("base", [DIFFUSION, GAN], ids=["diffusion", "gan"])
def test_a_loaded_run_draws_an_image_from_its_seed_whatever_the_batch(
    base: dict[str, Any], tmp_path: Path
) -> None:
    train(experiment(base), tmp_path / "run", log=silent)
    model = load_run(tmp_path / "run").model
    labels = torch.arange(7)
    together = sample_images(model, labels, range(7))
    apart = sample_images(model, labels, range(7), batch_size=3)
    assert (together.int() - apart.int()).abs().max() <= 1  # rounding of float32
    assert not torch.equal(together[0], together[1])


def test_an_override_of_the_sampler_needs_no_training(tmp_path: Path) -> None:
    train(experiment(DIFFUSION), tmp_path / "run", log=silent)
    assert load_run(tmp_path / "run", ["model.sampler.steps=7"]).model.nfe == 7
    with pytest.raises(RunError, match="another configuration"):
        load_run(tmp_path / "run", ["model.network.channels=16"])


def test_an_unconditional_model_of_labelled_data_ignores_the_labels(tmp_path: Path) -> None:
    config = replace(experiment(DIFFUSION), conditional=False)
    train(config, tmp_path / "run", log=silent)
    assert load_run(tmp_path / "run").model.num_classes == 0
