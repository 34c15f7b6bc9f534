"""The evaluator on digits: floors, folds, label frequencies, protocol, and bad input."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.core.errors import ConfigError
from sfumato.core.images import UInt8Images
from sfumato.data.catalogue import load
from sfumato.data.config import DataConfig
from sfumato.data.dataset import Splits
from sfumato.metrics.estimate import MetricError
from sfumato.run.evaluate import METRICS, EvaluationConfig, Evaluator
from sfumato.run.folds import make_folds


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load(DataConfig(source="digits"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classifiers")


@pytest.fixture(scope="module")
def evaluator(splits: Splits, cache: Path) -> Iterator[Evaluator]:
    """Its classifiers are trained for a quarter of the usual time: that is enough for digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.run.classifier.REPEATS", 16)
        patch.setattr("sfumato.run.classifier.SHORTEST", 0)
        yield Evaluator(splits, EvaluationConfig(), cache)


def floor_images(evaluator: Evaluator) -> UInt8Images:
    return evaluator.splits.train.take(evaluator.folds.floor)


def test_the_floors_own_images_score_the_floor(evaluator: Evaluator) -> None:
    scores = evaluator.score(floor_images(evaluator), evaluator.labels)
    assert scores["frechet_distance"] == evaluator.floors["frechet_distance"]
    assert set(scores) == set(evaluator.floors) == {m.key for m in METRICS}


def test_scores_do_not_depend_on_the_batch_size(
    splits: Splits, evaluator: Evaluator, cache: Path
) -> None:
    other = Evaluator(splits, EvaluationConfig(batch_size=37), cache)
    a, b = evaluator.floors["frechet_distance"], other.floors["frechet_distance"]
    assert a.value == pytest.approx(b.value, rel=1e-5)
    assert other.protocol == evaluator.protocol


def test_damage_of_the_images_raises_the_distance_above_the_floor(evaluator: Evaluator) -> None:
    images = floor_images(evaluator)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = (images + 20 * noise).clamp(0, 255).to(torch.uint8)
    floor, scores = evaluator.floors, evaluator.score(noisy, evaluator.labels)
    low, high = scores["frechet_distance"].low, floor["frechet_distance"].high
    assert low is not None
    assert high is not None
    assert low > high
    wrong = evaluator.score(images, evaluator.labels.roll(1))["label_accuracy"]
    assert wrong.value < 0.3 < 0.98 < floor["label_accuracy"].value


def test_a_missing_class_is_seen_in_distance_and_histogram(evaluator: Evaluator) -> None:
    images, labels = floor_images(evaluator), evaluator.labels
    kept = torch.nonzero(labels != 3).squeeze(1)
    some = kept[torch.arange(len(labels)) % len(kept)]
    results = evaluator.results(images[some], labels[some])
    assert results.class_histogram["3"] <= 3
    assert sum(results.class_histogram.values()) == len(labels)
    low, high = results.scores["frechet_distance"].low, results.floors["frechet_distance"].high
    assert low is not None
    assert high is not None
    assert low > high
    assert results.to_mapping()["protocol"] == evaluator.protocol


def test_the_feature_network_never_saw_an_image_of_the_floor(
    splits: Splits, evaluator: Evaluator
) -> None:
    """The folds: N images for the floor, none of which the feature network was trained on."""
    folds = evaluator.folds
    assert len(folds.floor) == len(splits.held_out) == evaluator.num_images
    assert set(folds.floor) <= set(folds.judge)
    assert not set(folds.judge) & set(folds.features)
    assert sorted([*folds.judge, *folds.features]) == list(range(len(splits.train)))


def test_folds_follow_content_not_position(splits: Splits) -> None:
    order = np.random.Generator(np.random.PCG64(1)).permutation(len(splits.train))
    shuffled = Splits(splits.train.subset(order), splits.held_out)

    def hashes(splits: Splits, seed: int) -> set[bytes]:
        floor = make_folds(splits, 200, seed).floor
        return {row.tobytes() for row in splits.train.hashes[floor]}

    assert hashes(shuffled, 0) == hashes(splits, 0)
    assert hashes(splits, 1) != hashes(splits, 0)


def test_labels_to_sample_are_those_of_the_floor(evaluator: Evaluator, splits: Splits) -> None:
    assert splits.train.labels is not None
    expected = np.bincount(splits.train.labels[evaluator.folds.floor])
    assert torch.bincount(evaluator.labels).tolist() == expected.tolist()


def test_protocol_changes_with_what_a_score_means(
    splits: Splits, evaluator: Evaluator, cache: Path
) -> None:
    other = Evaluator(splits, EvaluationConfig(num_images=300), cache).protocol
    assert other["num_images"] == 300
    differing = {key for key in other if other[key] != evaluator.protocol[key]}
    assert differing == {"num_images"}
    assert all(isinstance(value, str | int | float) for value in other.values())


def test_bad_input_says_what_and_the_remedy(splits: Splits, evaluator: Evaluator) -> None:
    with pytest.raises(ConfigError, match=r"num_images is 1000, but only 599 .* data\.held_out"):
        make_folds(splits, 1000, 0)
    small = Splits(splits.train.subset(range(100)), splits.held_out)
    with pytest.raises(ConfigError, match="at most 70"):
        make_folds(small, 80, 0)
    with pytest.raises(ConfigError, match="no labels"):
        Evaluator(Splits(splits.train.relabelled(None, ()), splits.held_out))
    with pytest.raises(MetricError, match="3 images were given and the protocol says N = 599"):
        evaluator.score(floor_images(evaluator)[:3], evaluator.labels[:3])
    with pytest.raises(MetricError, match="shape"):
        evaluator.score(floor_images(evaluator)[..., :7], evaluator.labels)
