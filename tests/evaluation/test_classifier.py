"""Classifiers: accurate, repeatable, cached by content."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.errors import ConfigError
from sfumato.core.noise import generator
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Dataset
from sfumato.evaluation import judge as room
from sfumato.evaluation.judge import classify, shifted, train_classifier
from sfumato.networks.classifier import ClassifierConfig

TINY = ClassifierConfig(width=2, num_features=3)


def stripes(count: int, seed: int = 0, size: int = 8) -> Dataset:
    """Two classes that one look tells apart: horizontal and vertical stripes, noisy."""
    labels = np.arange(count) % 2
    horizontal = (np.arange(size) % 2 * 200)[:, None] * np.ones((1, size))
    clean = np.stack([horizontal, horizontal.T])[labels][:, None]
    noise = np.random.Generator(np.random.PCG64(seed)).integers(0, 40, clean.shape)
    return Dataset((clean + noise).astype(np.uint8), labels, ("rows", "columns"), "s", "train")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three steps of training instead of all; the list grows with each training."""
    trained: list[int] = []
    real = room._train

    def few(
        classifier: object, dataset: Dataset, fold: np.ndarray, seed: int, most_images: int
    ) -> None:
        trained.append(seed)
        monkeypatch.setattr(room, "SHORTEST", 192)
        monkeypatch.setattr(room, "REPEATS", 1)
        real(classifier, dataset, fold, seed, most_images)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "_train", few)
    return trained


def test_digits_are_judged_right(tmp_path: Path) -> None:
    """Trained on half of the training images, at least 98 % of the held-out ones."""
    splits = load(DataConfig(source="digits"))
    fold = np.arange(0, len(splits.train), 2)
    classifier = train_classifier(splits.train, fold, ClassifierConfig(width=16), 0, tmp_path)
    predicted = classify(classifier, torch.from_numpy(splits.held_out.images))
    assert splits.held_out.labels is not None
    assert (predicted.numpy() == splits.held_out.labels).mean() >= 0.98


def test_training_repeats_and_is_cached_by_content(tmp_path: Path, short: list[int]) -> None:
    data, fold = stripes(64), np.arange(40)

    def weights(folder: str, data: Dataset, seed: int = 0) -> Float[Tensor, " n"]:
        classifier = train_classifier(data, fold, TINY, seed, tmp_path / folder)
        return torch.cat([t.flatten().double() for t in classifier.state_dict().values()])

    first = weights("a", data)
    assert torch.equal(weights("a", data), first)
    assert short == [0]  # the second came from the cache
    assert torch.equal(weights("b", data), first)
    assert short == [0, 0]  # and this one was trained again, to the same weights
    assert not torch.equal(weights("a", data, seed=1), first)
    assert not torch.equal(weights("a", stripes(64, seed=1)), first)
    assert len(list((tmp_path / "a").iterdir())) == 3


def test_a_damaged_cache_is_trained_anew(tmp_path: Path, short: list[int]) -> None:
    data, fold = stripes(64), np.arange(40)
    train_classifier(data, fold, TINY, 0, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    train_classifier(data, fold, TINY, 0, tmp_path)
    assert len(short) == 2
    assert path.read_bytes() == whole


def test_training_leaves_the_global_generator_alone(tmp_path: Path, short: list[int]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train_classifier(stripes(64), np.arange(40), TINY, 0, tmp_path)
    assert short
    assert torch.equal(torch.rand(1), expected)


def test_shifts_move_by_a_pixel_and_repeat_the_border() -> None:
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    moved = shifted(image.expand(200, 1, 8, 8), generator("shift"))
    offsets = (moved[:, 0, 4, 4] - image[0, 0, 4, 4]).unique().tolist()
    assert offsets == [-9, -8, -7, -1, 0, 1, 7, 8, 9]
    assert moved.min() == 0
    assert moved.max() == 63  # nothing but pixels of the image came in


def test_unlabelled_data_are_refused(tmp_path: Path) -> None:
    data = stripes(8).relabelled(None, ())
    with pytest.raises(ConfigError, match="needs labels"):
        train_classifier(data, np.arange(8), TINY, 0, tmp_path)
