"""A GAN whose discriminator sees augmented images, and what is logged of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.augment.discriminator import ADA, DiffAugment
from sfumato.core.config import merge
from sfumato.core.images import Batch
from sfumato.core.noise import Noise, TrainingNoise
from sfumato.experiment.training_run import train
from sfumato.gan.gan_model import GAN, GANConfig
from sfumato.gan.losses import (
    LeastSquaresLoss,
    NonSaturatingLoss,
    RelativisticLoss,
    WassersteinLoss,
    logits_and_accuracy,
)
from sfumato.gan.regularizers import R1
from sfumato.networks.dcgan import DCGANConfig
from sfumato.runs.directory import read_metrics
from sfumato.training.checkpoint import load_newest
from support.experiments import GAN as TINY
from support.experiments import experiment
from support.processes import silent

NETWORK = DCGANConfig(channels=4, latent_dim=8, normalization="none")


def built(config: GANConfig) -> GAN:
    torch.manual_seed(0)
    return config.build((1, 8, 8), 0)


def test_real_and_generated_images_are_augmented_and_samples_are_not() -> None:
    gan = built(GANConfig(network=NETWORK, augment=ADA(probability=1.0, adaptive=False)))
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seen, made = [], [x]
    gan.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    gan.generator.register_forward_hook(lambda module, inputs, output: made.append(output))
    gan.discriminator_loss(Batch(x), TrainingNoise(0, global_batch=16))
    gan.generator_loss(Batch(x), TrainingNoise(0, global_batch=16))
    for images, originals in zip(seen, made, strict=True):
        assert (images != originals).flatten(1).any(1).all()
    plain = built(GANConfig(network=NETWORK))
    state = gan.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    samples = (model.eval().sample(None, Noise(range(16))) for model in (gan, plain))
    assert torch.equal(*samples)


def test_r1_reaches_real_images_through_the_augmentation() -> None:
    gan = built(
        GANConfig(
            network=NETWORK,
            augment=ADA(probability=0.7, adaptive=False),
            regularizers=(R1(every=1),),
        )
    )
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    gan.discriminator_loss(Batch(x), TrainingNoise(0, global_batch=8)).sum().backward()
    assert all(bool(p.grad.any()) for p in gan.discriminator.parameters() if p.ndim > 1)


def test_the_gradient_of_the_generator_passes_through_the_augmentation() -> None:
    for augment in (ADA(probability=1.0, adaptive=False), DiffAugment()):
        gan = built(GANConfig(network=NETWORK, augment=augment))
        x = torch.zeros(8, 1, 8, 8)
        gan.generator_loss(Batch(x), TrainingNoise(0, global_batch=8)).sum().backward()
        assert all(bool(p.grad.any()) for p in gan.generator.parameters() if p.ndim > 1)


def test_accuracy_is_about_the_boundary_of_the_loss() -> None:
    real, fake = torch.tensor([2.0, 0.4, -1.0, 0.6]), torch.tensor([-2.0, 0.3, 0.7, 0.2])

    def accuracy(loss: Any) -> dict[str, float]:
        found = logits_and_accuracy(loss, real, fake)
        return {k[9:]: float(v.mean()) for k, v in found.items() if k.startswith("accuracy/")}

    assert accuracy(NonSaturatingLoss()) == {"real": 0.75, "generated": 0.25}
    assert accuracy(LeastSquaresLoss()) == {"real": 0.5, "generated": 0.75}
    assert accuracy(RelativisticLoss()) == {"pairs": 0.75}


@pytest.mark.parametrize("loss", [RelativisticLoss(), WassersteinLoss(clip=0.01)])
def test_an_adaptive_p_without_a_boundary_is_refused(loss: Any) -> None:
    with pytest.raises(ValueError, match=f"the loss {loss.kind} leaves open where their zero is"):
        GANConfig(network=NETWORK, loss=loss, augment=ADA())
    GANConfig(network=NETWORK, loss=loss, augment=ADA(adaptive=False, probability=0.2))


def test_a_run_with_ada_resumes_exactly_with_its_p(tmp_path: Path) -> None:
    """p moves every 3 steps of 16 images, and the run is stopped between two moves."""
    ada = {"kind": "ada", "rise_images": 400, "interval": 3, "target": -0.9}
    config = merge(TINY, {"model": {"augment": ada}})
    train(experiment(config), tmp_path / "whole", log=silent)
    train(experiment(config, budget_images=64, decay_images=128), tmp_path / "parts", log=silent)
    train(experiment(config, decay_images=128), tmp_path / "parts", resume=True, log=silent)
    states = [load_newest(tmp_path / run / "checkpoints")[0] for run in ("whole", "parts")]
    assert all(torch.equal(states[0].tensors[k], v) for k, v in states[1].tensors.items())
    p = float(states[0].tensors["model/augment.p"])
    assert p == pytest.approx(2 * 48 / 400)
    rows = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts")]
    for one, other in zip(*rows, strict=True):
        names = [k for k in one if k not in ("seconds", "images_per_second")]
        assert {k: one[k] for k in names} == {k: other[k] for k in names}
    assert rows[0][1]["ada/p"] == pytest.approx(48 / 400 / 2)  # the mean over steps 3 and 4
    assert {"ada/r_t", "logits/real", "logits/generated", "accuracy/real"} <= set(rows[0][0])
