"""Watching a GAN: what is logged, and each warning provoked by a run that deserves it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.core.config import merge
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
from sfumato.experiment.experiment import build_model
from sfumato.experiment.training_run import train
from sfumato.gan.gan_model import GANConfig
from sfumato.gan.losses import LeastSquaresLoss, NonSaturatingLoss, RelativisticLoss
from sfumato.networks.dcgan import DCGANConfig
from sfumato.runs.directory import read_metrics
from sfumato.training import doctor as doctors
from sfumato.training.doctor import DiscriminatorProbe, Doctor, class_shares
from sfumato.training.training_state import initial_state
from support.experiments import DIFFUSION, GAN, experiment
from support.processes import silent

DISCRIMINATOR = {"kind": "dcgan", "channels": 4, "latent_dim": 8}


def doctor(shares: list[float] | None = None) -> tuple[Doctor, list[str]]:
    heard: list[str] = []
    data = torch.randint(0, 256, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return Doctor(initial_state(), heard.append, data.to(torch.uint8), shares or [0.1] * 10), heard


def wins(steps: int, accuracy: float) -> list[str]:
    patient, heard = doctor()
    for step in range(0, steps + 1, 100):
        row = {"accuracy/real": accuracy, "accuracy/generated": 1.0, "logits/real": 5.0}
        patient.state.images, patient.state.step = 64 * step, step
        patient.check_discriminator(row)
    return heard


def test_a_discriminator_that_has_won_for_2000_steps_is_told_once() -> None:
    assert wins(1900, 0.98) == []
    assert wins(4000, 0.9) == []
    (message,) = wins(4000, 0.98)
    assert message.startswith(
        "discriminator wins: accuracy 0.99 for 2,000 steps, at 128,000 images"
    )


def test_a_single_row_of_doubt_starts_the_count_anew() -> None:
    patient, heard = doctor()
    for step in range(0, 3000, 100):
        accuracy = 0.5 if step == 1500 else 1.0
        patient.state.step = step
        patient.check_discriminator({"accuracy/pairs": accuracy})
    assert heard == []


def test_three_of_ten_classes_are_a_collapse() -> None:
    patient, heard = doctor()
    names = [str(k) for k in range(10)]
    fair = dict.fromkeys(names, 0.1)
    uneven = dict(zip(names, [0.3, 0.2, 0.1, 0.1, 0.1, *[0.04] * 5], strict=True))
    for shares in (fair, uneven, {}):
        patient.state.images = 10
        patient.check_classes(shares)
    assert heard == []
    few = dict(zip(names, [0.02] * 7 + [0.4, 0.26, 0.2], strict=True))
    patient.state.images = 5000
    patient.check_classes(few)
    assert heard[0].startswith("mode collapse: 3 of 10 classes make 86% of samples (7, 8, 9)")


def test_classes_that_are_rare_in_the_data_may_be_rare_in_samples() -> None:
    patient, heard = doctor([0.7, 0.15, *[0.15 / 8] * 8])
    names = [str(k) for k in range(10)]
    patient.check_classes(dict(zip(names, [0.6, 0.3, *[0.1 / 8] * 8], strict=True)))
    assert heard == []


def test_more_twins_than_among_real_images_are_told() -> None:
    patient, heard = doctor()
    patient.state.images = 10
    patient.check_duplicates(0.12, 0.05)
    assert heard == []
    patient.state.images = 10
    patient.check_duplicates(0.4, 0.05)
    assert "40% of samples have a twin among the others (of real images 5%)" in heard[0]


def test_looking_changes_nothing_and_sees_what_the_discriminator_says() -> None:
    splits = load(DataConfig(source="digits"))
    torch.manual_seed(0)
    model = GANConfig(network=DCGANConfig(channels=4, latent_dim=8)).build((1, 8, 8), 10).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = DiscriminatorProbe(splits).look(model, 32)
    assert model.training
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert set(found) >= {"logits/seen", "logits/held_out", "logits/sampled"}
    diffusion = build_model(experiment(DIFFUSION), splits.train)
    assert DiscriminatorProbe(splits).look(diffusion, 32) == {}
    # A discriminator that measures brightness says how bright the images are.
    model.logits = lambda batch: batch.images.mean((1, 2, 3))
    rows = np.unique(np.linspace(0, len(splits.held_out) - 1, 128).astype(int))
    bright = (splits.held_out.take(rows).float() / 127.5 - 1).mean().item()
    found = DiscriminatorProbe(splits).look(model, 32)
    assert found["logits/held_out"] == pytest.approx(bright, abs=1e-6)
    assert found["accuracy/held_out"] == 0  # digits are dark: below the boundary 0


@pytest.mark.parametrize(
    ("loss", "accuracies"),
    [
        (NonSaturatingLoss(), {"seen": 0.75, "held_out": 0.25, "sampled": 0.5}),
        (LeastSquaresLoss(), {"seen": 0.5, "held_out": 0.25, "sampled": 1.0}),
        (RelativisticLoss(), {"seen": 1.0, "held_out": 0.25}),  # of pairs
    ],
)
def test_accuracies_of_images_it_is_not_trained_on(loss: Any, accuracies: dict[str, float]) -> None:
    """A discriminator whose logits are known: on this side and that of 0, of 0.5, of each other."""
    splits = load(DataConfig(source="digits"))
    model = GANConfig(network=DCGANConfig(channels=4, latent_dim=8), loss=loss)
    gan = model.build((1, 8, 8), 0)
    answers = iter(
        [[0.4, 0.6, 0.9, -0.3], [-0.1, -0.2, 0.8, -0.5], [0.3, -0.1, 0.1, -0.4]]
    )  # of training images, held-out ones, and samples
    gan.logits = lambda batch: torch.tensor(next(answers)).repeat(len(batch) // 4)
    found = DiscriminatorProbe(splits).look(gan, 128)
    assert {k: v for k, v in found.items() if k.startswith("accuracy/")} == {
        f"accuracy/{name}": value for name, value in accuracies.items()
    }


def test_the_shares_of_classes() -> None:
    shares = class_shares(load(DataConfig(source="digits", classes=(1, 2, 3))).train)
    assert sum(shares) == pytest.approx(1)
    assert len(shares) == 3


def tiny(model: dict[str, Any], **training: Any) -> Any:
    return experiment(merge(GAN, {"model": model}), **training)


def heard_in(tmp_path: Path, config: Any) -> list[str]:
    train(config, tmp_path / "run", log=silent)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    return [str(message) for message in summary["warnings"]]


def test_a_discriminator_against_a_generator_that_cannot_learn_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Provoked: weights of the generator clipped to nothing. Sooner than after 2,000 steps."""
    monkeypatch.setattr(doctors, "WON_STEPS", 100)
    real = GANConfig.build

    def crippled(self: GANConfig, *arguments: Any) -> Any:
        model = real(self, *arguments)
        model.generator.register_forward_hook(lambda module, inputs, output: output * 0.1 + 0.5)
        return model

    monkeypatch.setattr(GANConfig, "build", crippled)
    config = tiny(
        {}, budget_images=160 * 16, log_images=160, sample_images=0, checkpoint_images=4000,
        learning_rate=2e-3,
    )  # fmt: skip
    messages = heard_in(tmp_path, config)
    assert any(m.startswith("discriminator wins: accuracy") for m in messages)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["accuracy/real"] > 0.98
    assert rows[-1]["logits/real"] > 0 > rows[-1]["logits/generated"]
    assert {"logits/held_out", "logits/seen", "logits/sampled"} <= set(rows[-1])


@pytest.mark.slow
def test_a_gan_of_two_classes_of_ten_has_collapsed_and_its_samples_have_twins(
    tmp_path: Path,
) -> None:
    """Provoked for real: a large learning rate, which makes a DCGAN of digits lose its modes."""
    config = tiny(
        {"network": {**DISCRIMINATOR, "channels": 16}},
        budget_images=12_000, score_images=3_000, log_images=1_000, sample_images=0,
        checkpoint_images=20_000, learning_rate=2e-2,
    )  # fmt: skip
    messages = heard_in(tmp_path, replace(config, conditional=False))
    assert any(m.startswith("mode collapse: ") for m in messages), messages
    rows = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "duplicates" in r]
    shares = [value for key, value in rows[-1].items() if key.startswith("class_share/")]
    assert len(shares) == 10
    assert sum(shares) == pytest.approx(1)


def test_held_out_images_that_look_generated_are_told() -> None:
    patient, heard = doctor()
    patient.state.images = 10
    patient.check_discriminator({"overfitting/r_v": 0.79})
    assert heard == []
    patient.state.images = 20
    patient.check_discriminator({"overfitting/r_v": 0.85})
    assert "memorized its training images: at 20 images it takes held-out images" in heard[0]
