"""A GAN with everything that has a state resumes exactly."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sfumato.core.config import merge
from sfumato.experiment.training_run import train
from support.experiments import GAN, experiment
from support.processes import in_group, silent, train_and_tell_p, train_in

STYLE = {
    "network": {
        "kind": "stylegan2",
        "latent_dim": 8,
        "style_dim": 8,
        "mapping_layers": 1,
        "channel_base": 32,
    },
    "regularizers": [{"kind": "r1", "every": 4}, {"kind": "path_length", "every": 2}],
    "augment": {"kind": "ada"},
}
SPECTRAL = {
    "network": {
        "kind": "resnet_gan",
        "latent_dim": 8,
        "channels": 4,
        "discriminator_channels": 4,
        "normalization": "spectral",
    },
    "loss": {"kind": "hinge"},
    "discriminator_steps": 3,
    "input_noise": 0.1,
    "input_noise_images": 100,
}


@pytest.mark.parametrize(
    ("model", "states"),
    [
        (STYLE, ["generator.average_w", "path_length_mean", "augment."]),
        (SPECTRAL, ["discriminator.blocks.0.layers.0.parametrizations.weight.0._u"]),
    ],
    ids=["stylegan2-ada", "sngan"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    model: dict[str, object], states: list[str], tmp_path: Path
) -> None:
    """Weights, optimizers, averages, and what is neither: bit for bit."""
    base = merge({**GAN, "model": {"kind": "gan"}}, {"model": model})
    train(experiment(base, sample_images=0), tmp_path / "whole", log=silent)
    half = experiment(base, sample_images=0, budget_images=64, decay_images=128)
    train(half, tmp_path / "parts", log=silent)
    again = experiment(base, sample_images=0, decay_images=128)
    train(again, tmp_path / "parts", resume=True, log=silent)
    name = "checkpoints/000000000128.safetensors"
    expected, found = load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    start = load_file(sorted((tmp_path / "whole" / "checkpoints").glob("*.safetensors"))[0])
    for state in states:
        keys = [key for key in expected if key.startswith(f"model/{state}")]
        assert keys
        assert any(not torch.equal(expected[key], start[key]) for key in keys)


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    """Mean w and mean path length, which are no gradients, are those of both processes."""
    model = merge(STYLE, {"network": {"group_size": 1}})
    model["regularizers"] = [{"kind": "path_length", "every": 2, "batch_share": 1}]
    base = merge({**GAN, "model": {"kind": "gan"}}, {"model": model})
    base["model"].pop("augment")
    config = experiment(base, sample_images=0, budget_images=48, optimizer={"kind": "sgd"})
    train(config, tmp_path / "one", log=silent)
    assert in_group(2, train_in, config, tmp_path / "two") == [0, 0]
    expected, found = (load_file(tmp_path / n / "final.safetensors") for n in ("one", "two"))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=2e-6, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_share_one_p(tmp_path: Path) -> None:
    """p rests on the logits of the global batch: equal in both, and that of a single process.

    The target is the median sign of logits that flip in training, so that p goes up and down.
    """
    ada = {"kind": "ada", "interval": 2, "rise_images": 300, "target": 0.0, "probability": 0.1}
    model = {
        "network": {"kind": "mlp_gan", "latent_dim": 8, "width": 16},
        "augment": ada,
    }
    base = merge({**GAN, "model": {"kind": "gan"}}, {"model": model})
    config = experiment(base, sample_images=0, optimizer={"kind": "sgd"}, learning_rate=0.05)
    train_and_tell_p(config, tmp_path / "one")
    assert in_group(2, train_and_tell_p, config, tmp_path / "two") == [0, 0]
    alone = json.loads((tmp_path / "one-p-0.json").read_text())
    assert len(alone) == 8
    assert len(set(alone)) > 2
    assert min(alone) < max(alone)
    for rank in (0, 1):
        shared = json.loads((tmp_path / f"two-p-{rank}.json").read_text())
        assert shared == pytest.approx(alone, abs=1e-6)
