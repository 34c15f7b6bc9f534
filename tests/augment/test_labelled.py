"""Augmentation with labels for the network: they describe the change, and 0 is none."""

import pytest
import torch

from sfumato.augment.affine import warp
from sfumato.augment.labelled import NUM_LABELS, LabelledAugmentation
from sfumato.core.config import merge
from sfumato.core.errors import ConfigError
from sfumato.core.images import Batch
from sfumato.core.noise import Noise, TrainingNoise
from sfumato.networks.layers import TimeEmbedding
from support.experiments import DIFFUSION, experiment


def images(count: int, *shape: int) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_an_image_is_changed_where_its_labels_are_not_0_and_nowhere_else() -> None:
    x = images(2000, 1, 8, 8)
    found, labels = LabelledAugmentation(mirror=False)(x, TrainingNoise(0, global_batch=2000))
    assert labels.shape == (2000, NUM_LABELS)
    changed = (found != x).flatten(1).any(1)
    assert torch.equal(changed, (labels != 0).any(1))
    # Scaling, rotation, stretching, moving, and half of the upside-down draws, at 0.12 each.
    expected = 1 - (1 - 0.12) ** 4 * (1 - 0.06)
    assert changed.double().mean().item() == pytest.approx(expected, abs=0.045)
    upside_down = (labels[:, 1] == 1) & (labels[:, 2:] == 0).all(1)
    assert upside_down.any()
    assert torch.equal(found[upside_down], x[upside_down].flip(2))


def test_half_of_the_images_are_mirrored_and_labelled_so() -> None:
    x = images(1000, 1, 4, 4)
    found, labels = LabelledAugmentation(probability=1e-9)(x, TrainingNoise(0, global_batch=1000))
    mirrored = labels[:, 0] == 1
    assert abs(int(mirrored.sum()) - 500) < 64
    assert torch.equal(found[mirrored], x[mirrored].flip(3))
    assert torch.equal(found[~mirrored], x[~mirrored])


def test_the_labels_say_which_matrix_it_was() -> None:
    """The image computed again from its labels, by the formulas of the paper."""
    from sfumato.augment import affine

    x = images(32, 1, 16, 24)
    augment = LabelledAugmentation(probability=1.0, mirror=False)
    found, labels = augment(x, TrainingNoise(0, global_batch=32))
    given = labels.double()
    factor = torch.exp2(0.2 * given[:, 2])
    angle = torch.atan2(given[:, 4], given[:, 3] + 1)
    direction = torch.atan2(given[:, 6], given[:, 5]) / 2
    along = torch.exp2(0.2 * torch.hypot(given[:, 5], given[:, 6]))
    matrix = affine.rotate_2d(-angle) @ affine.scale_2d(factor, factor)
    matrix = affine.rotate_2d(-direction) @ matrix
    matrix = affine.rotate_2d(direction) @ affine.scale_2d(along, 1 / along) @ matrix
    matrix = affine.translate_2d(given[:, 7] * 24 / 8, given[:, 8] * 16 / 8) @ matrix
    upright = torch.where((given[:, 1] == 1)[:, None, None, None], x.flip(2), x)
    torch.testing.assert_close(found, warp(upright, matrix), atol=2e-3, rtol=0)


def test_all_labels_0_add_nothing_and_others_do() -> None:
    embedding = TimeEmbedding(8, 16)
    noise_label = torch.tensor([1.0, 2.0])
    plain = embedding(noise_label)
    embedding.take_augment_labels(NUM_LABELS)
    torch.nn.init.normal_(embedding.embed_augment.weight)
    assert torch.equal(embedding(noise_label), plain)
    assert torch.equal(embedding(noise_label, augment_labels=torch.zeros(2, NUM_LABELS)), plain)
    given = embedding(noise_label, augment_labels=torch.eye(NUM_LABELS)[:2])
    assert (given != plain).any(1).all()


@pytest.mark.parametrize(
    "network",
    [
        DIFFUSION["model"]["network"],
        {"kind": "ddpmpp", "channels": 8, "multipliers": [1], "blocks": 1, "attention": []},
    ],
    ids=lambda network: network["kind"],
)
def test_a_diffusion_model_learns_from_the_labels_and_samples_without(
    network: dict[str, object],
) -> None:
    base = merge(DIFFUSION, {"model": {"augment": {"probability": 1.0}}})
    base["model"]["network"] = network
    model = experiment(base).model.build((1, 8, 8), 0)
    batch, noise = Batch(images(16, 1, 8, 8)), TrainingNoise(0, global_batch=16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    model.train().loss(batch, noise).sum().backward()
    weight = model.denoiser.network.embed_time.embed_augment.weight
    assert (weight.grad != 0).any(0).all(), "a gradient from each of the nine labels"
    samples = model.eval().sample(None, Noise(range(2)))
    with torch.no_grad():
        weight.zero_()
    torch.testing.assert_close(model.sample(None, Noise(range(2))), samples)


def test_a_network_without_augment_labels_is_refused() -> None:
    base = merge(DIFFUSION, {"model": {"augment": {}}})
    base["model"]["network"] = {"kind": "dit"}
    with pytest.raises(
        ConfigError, match="network kind 'dit' does not take it; use unet or ddpmpp"
    ):
        experiment(base)
    with pytest.raises(ValueError, match=r"'probability' is 0.0; it should be above 0"):
        LabelledAugmentation(probability=0.0)
