"""Any set of images against any other: known distances, floors, notes, and the floor curve."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from sfumato.cli import main
from sfumato.core.config import parse
from sfumato.core.errors import ConfigError
from sfumato.core.images import UInt8Images
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
from sfumato.evaluation.feature_cache import FeatureCache
from sfumato.evaluation.floor_curve import floor_curve, sizes
from sfumato.evaluation.image_sources import (
    GeneratedImages,
    draw,
    stored_images,
    with_real_frequencies,
)
from sfumato.evaluation.protocol import EvaluationConfig, default_features
from sfumato.evaluation.score import Scores, score
from sfumato.experiment.score_run import image_source
from sfumato.experiment.training_run import train
from sfumato.metrics.estimate import MetricError
from sfumato.metrics.features import FeatureNetwork
from sfumato.metrics.frechet import FrechetReference, frechet_distance
from sfumato.metrics.pretrained import EfficientNetFeatures
from support.experiments import DIFFUSION, experiment

FAST = {"features": {"kind": "efficientnet-lite0"}, "metrics": ["frechet_distance"]}


def colours(images: UInt8Images) -> Float[Tensor, "B 6"]:
    """Features that can be computed by hand: mean and spread of each channel."""
    x = images.float().expand(-1, 3, -1, -1).flatten(2)
    return torch.cat([x.mean(2), x.std(2)], dim=1)


@pytest.fixture(autouse=True)
def fast_features(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The named network is replaced by one without weights, so that answers are known."""
    network = FeatureNetwork("colours", "0" * 64, 6, "none", colours)
    monkeypatch.setattr(EfficientNetFeatures, "build", lambda self, cache: network)
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))

    def offline(cache: Path) -> Path:
        raise MetricError("no connection")

    monkeypatch.setattr("sfumato.evaluation.protocol.standard_weights", offline)


def pictures(count: int, seed: int, size: int = 20, shift: int = 0) -> UInt8[np.ndarray, "N S S 3"]:
    random = np.random.Generator(np.random.PCG64(seed))
    base = random.integers(0, 120, (count, 1, 1, 3))
    noise = random.integers(0, 100, (count, size, size, 3))
    return (base + noise + shift).astype(np.uint8)


def save_npz(path: Path, images: np.ndarray) -> str:
    np.savez(path, x=images)
    return str(path)


def save_folder(path: Path, images: np.ndarray) -> str:
    path.mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image).save(path / f"{k:04d}.png")
    return str(path)


def config(**changes: object) -> EvaluationConfig:
    return parse(EvaluationConfig, FAST | changes, "test")


def channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def test_a_folder_against_an_npz_is_the_distance_of_their_features(tmp_path: Path) -> None:
    x, y = pictures(60, 0), pictures(90, 1, shift=20)
    a, b = save_folder(tmp_path / "a", x), save_npz(tmp_path / "b.npz", y)
    for metrics in (["frechet_distance"], ["frechet_distance", "kernel_distance"]):
        results = score(stored_images(a), stored_images(b), config(metrics=metrics))
        features = colours(channels_first(x)), colours(channels_first(y))
        expected = frechet_distance(features[0], FrechetReference.of(features[1]))
        assert results.scores["frechet_distance"].value == pytest.approx(expected, rel=1e-6)
        assert results.scores["frechet_distance"].n == 60
        assert list(results.floors) == metrics  # the floor: 45 images of B against its other 45
        assert results.protocol["floor"].startswith("45 against 45")  # type: ignore[union-attr]
        assert any("45 against 45" in warning for warning in results.warnings)
        excess = results.excess["frechet_distance"]
        assert excess.low is not None
        assert excess.low > 0
        assert not any("too small" in warning for warning in results.warnings)


def test_equal_sources_differ_by_no_more_than_the_floor(tmp_path: Path) -> None:
    a, b = (save_npz(tmp_path / f"{k}.npz", pictures(80, k)) for k in (2, 3))
    results = score(stored_images(a), stored_images(b), config(metrics=["frechet_distance"]))
    assert any("N = 80 is too small to show a difference" in w for w in results.warnings)


def test_images_on_both_sides_and_other_sizes_are_noted(tmp_path: Path) -> None:
    x = pictures(30, 4)
    a = stored_images(save_npz(tmp_path / "a.npz", x))
    b = stored_images(save_npz(tmp_path / "b.npz", np.concatenate([pictures(30, 5), x[:7]])))
    assert any(w.startswith("7 images are the same") for w in score(a, b, config()).warnings)
    large = stored_images(save_npz(tmp_path / "c.npz", pictures(30, 6, size=24)))
    assert any("3 x 24 x 24" in w for w in score(large, b, config()).warnings)


def test_images_that_the_features_were_learned_from_are_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sfumato.evaluation.judge.REPEATS", 2)
    monkeypatch.setattr("sfumato.evaluation.judge.SHORTEST", 0)
    digits = stored_images("digits")
    by_classifier = config(features={"kind": "classifier"}, num_images=50)
    own = score(digits, digits, by_classifier).warnings
    assert any(w.startswith("599 images are the same on both sides") for w in own)
    found = score(stored_images("digits:train"), digits, by_classifier).warnings
    assert any(w.startswith("the features were learned from 599 of the images") for w in found)


def test_planted_copies_are_drawn_beside_their_originals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sfumato.evaluation.judge.REPEATS", 2)
    monkeypatch.setattr("sfumato.evaluation.judge.SHORTEST", 0)
    splits = load(DataConfig(source="digits"))
    images = splits.held_out.take(np.arange(100))
    images[:10] = splits.train.take(np.arange(10))
    np.savez(tmp_path / "planted.npz", x=images[:, 0].numpy())
    path = tmp_path / "pairs.png"
    assert main(["evaluate", str(tmp_path / "planted.npz"), "digits", "-o", str(path)]) == 0
    printed = capsys.readouterr().out.replace("\u00a0", " ")
    assert "suspected copies of training images, by pixels: 10.0 % (up to 17.4 %)" in printed
    assert "classes as the judge sees them: 0 " in printed
    assert f"pairs of suspect and nearest training image, the first in {path}" in printed
    with Image.open(path) as picture:
        pixels = np.asarray(picture)[64:128:8, 64:]  # the top row of pairs, 8-fold
    assert (pixels[:, :64:8] == pixels[:, 72:136:8]).all()
    assert (pixels[:, :64:8] == images[0, 0].numpy()).all()


def test_copies_are_looked_for_whatever_the_features(tmp_path: Path) -> None:
    """Of the training images of a data set, from either split of it, or of a run."""
    splits = load(DataConfig(source="digits"))
    images = splits.held_out.take(np.arange(60))
    images[:6] = splits.train.take(np.arange(100, 106))
    planted = stored_images(save_npz(tmp_path / "planted.npz", images[:, 0].numpy()))
    run = train(experiment(DIFFUSION, sample_images=0, budget_images=32), tmp_path / "run")
    ours = str(run.directory)
    for name, settings in (("digits", {}), ("digits:train", {}), (ours, {"num_images": 60})):
        found = score(planted, image_source(name), config(memorization=True, **settings)).copies
        assert found is not None
        pairs = [(i, 100 + i) for i in range(6)]
        assert [tuple(pair) for pair in found.pixels.suspects.tolist()] == pairs
        assert found.pixels.held_out.value == 0
        at = found.pairs.index((0, 100))
        assert torch.equal(found.shown[at, 0], images[0])
        assert torch.equal(found.shown[at, 1], images[0])
    looking = config(memorization=True, num_images=40)
    sampled = score(image_source(ours), stored_images("digits"), looking).copies
    assert sampled is not None
    assert sampled.pixels.copies.n == 40
    looking = config(memorization=True)
    assert score(planted, planted, looking).copies is None  # no split of anything
    assert (
        score(planted, stored_images("digits"), config()).copies is None
    )  # unless it is asked for
    (run.directory / "data.json").write_text(
        (run.directory / "data.json").read_text().replace(splits.train.digest, "0" * 64)
    )
    changed = score(planted, image_source(ours), config(memorization=True, num_images=60))
    assert changed.copies is None
    assert any("have changed since it was trained" in warning for warning in changed.warnings)
    large = stored_images(save_npz(tmp_path / "large.npz", pictures(30, 6)[..., 0]))
    found = score(large, stored_images("digits"), looking)
    assert found.copies is None
    assert any(
        "only among images of the training images' size" in warning for warning in found.warnings
    )


def test_each_class_is_scored_beside_its_floor_whatever_the_features(tmp_path: Path) -> None:
    splits = load(DataConfig(source="digits"))
    digits, ours = stored_images("digits"), stored_images("digits:train")
    results = score(ours, digits, config(memorization=False))
    assert set(results.classes) == set(results.class_floors) == set("0123456789")
    sides = []
    for part in (splits.train, splits.held_out):
        assert part.labels is not None
        sides.append(colours(part.take(np.flatnonzero(part.labels == 3))))
    expected = frechet_distance(sides[0], FrechetReference.of(sides[1]))
    three = results.classes["3"]["frechet_distance"]
    assert three.value == pytest.approx(expected, rel=1e-5)
    assert three.n == len(sides[0])
    assert three.protocol == results.class_floors["3"]["frechet_distance"].protocol
    assert three.protocol not in (None, results.scores["frechet_distance"].protocol)
    excess = results.to_mapping()["class_excess"]["3"]["frechet_distance"]  # type: ignore[index]
    floor = results.class_floors["3"]["frechet_distance"].value
    assert excess["excess"] == pytest.approx(three.value - floor)
    assert excess["low"] < excess["excess"] < excess["high"]
    fewer = stored_images("digits:train", ["data.classes=[3,5]"])
    assert score(fewer, digits, config()).classes == {}  # other classes
    run = train(experiment(DIFFUSION, sample_images=0, budget_images=32), tmp_path / "run")
    sampled = score(image_source(str(run.directory)), digits, config(num_images=200))
    assert digits.other is not None
    real = np.bincount(digits.other.labels[draw(200, len(digits.other), 0)])
    counts = {name: own["frechet_distance"].n for name, own in sampled.classes.items()}
    assert counts == {str(c): k for c, k in enumerate(real) if k >= 10}
    floors = {name: own["frechet_distance"].n for name, own in sampled.class_floors.items()}
    assert floors == counts


def test_a_class_whose_floor_is_of_fewer_images_is_told(tmp_path: Path) -> None:
    """The digits with twice as many threes as the floor draws, and as they are."""
    train = load(DataConfig(source="digits")).train
    assert train.labels is not None
    threes = np.nonzero(train.labels == 3)[0]
    others = np.nonzero(train.labels != 3)[0]
    rows = np.concatenate([threes[:80], others[:320]])
    path = tmp_path / "threes.npz"
    np.savez(path, x=train.images[rows], y=train.labels[rows])
    a = stored_images(str(path))
    assert a.class_names == train.class_names
    (found,) = [w for w in score(a, stored_images("digits"), config()).warnings if "classes" in w]
    assert re.search(r"\b3 \d\d for 80\b", found)
    same = score(stored_images("digits"), stored_images("digits:train"), config(num_images=300))
    assert not any("numbers of images" in warning for warning in same.warnings)


def test_real_images_have_classes_by_the_classifier_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.evaluation.judge.REPEATS", 2)
    monkeypatch.setattr("sfumato.evaluation.judge.SHORTEST", 0)
    by_classifier = config(
        features={"kind": "classifier"}, num_images=200, metrics=["label_accuracy"]
    )
    results = score(stored_images("digits:train"), stored_images("digits"), by_classifier)
    assert sum(own["label_accuracy"].n for own in results.classes.values()) == 200
    assert results.scores == {}  # no classes were asked for


def test_only_the_features_of_the_fid_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two sets, of a run, and over N."""
    monkeypatch.setattr("sfumato.evaluation.judge.REPEATS", 2)
    monkeypatch.setattr("sfumato.evaluation.judge.SHORTEST", 0)
    run = train(experiment(DIFFUSION, sample_images=0, budget_images=32), tmp_path / "run")
    ours = str(run.directory)
    for resize, heading in (("tensorflow", "FID"), ("clean", "Fréchet distance")):
        network = FeatureNetwork("inception", "0" * 64, 6, resize, colours)
        monkeypatch.setattr(EfficientNetFeatures, "build", lambda self, cache, n=network: n)
        fast = ["--features", "efficientnet-lite0", "--metrics", "frechet_distance"]
        path = str(tmp_path / "floor.png")
        for arguments in (
            [ours, "digits", "evaluation.num_images=40"],
            [ours, "evaluation.num_images=40"],
            ["digits", "--floor-curve", "-o", path],
        ):
            assert main(["evaluate", *arguments, *fast]) == 0
            printed = capsys.readouterr().out
            assert heading in printed
            assert ("FID" in printed) == (heading == "FID")
    protocol = {"features": "inception", "resize": "tensorflow"}
    scores = score(stored_images("digits"), stored_images("digits"), config(num_images=40)).scores
    (column,) = Scores(scores, scores, protocol).to_mapping()["metrics"]
    assert column["label"] == "FID"


def test_only_moments_are_kept_where_they_suffice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is streamed once, then comes from the cache, by content and not by name."""
    a, x = stored_images(save_npz(tmp_path / "a.npz", pictures(20, 7))), pictures(40, 8)
    b = stored_images(save_npz(tmp_path / "b.npz", x))
    first = score(a, b, config()).scores
    calls = []
    real = FeatureNetwork.__call__

    def counted(self: FeatureNetwork, images: UInt8Images) -> Float[Tensor, "B d"]:
        calls.append(len(images))
        return real(self, images)

    monkeypatch.setattr(FeatureNetwork, "__call__", counted)
    renamed = stored_images(save_npz(tmp_path / "renamed.npz", x))
    assert score(a, renamed, config()).scores == first
    assert calls == []
    score(a, stored_images(save_npz(tmp_path / "new.npz", pictures(40, 9))), config())
    assert sum(calls) == 40 + 40  # the new reference whole, and its two halves for the floor


def test_large_features_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = FeatureNetwork("colours", "0" * 64, 6, "none", colours)
    images = channels_first(pictures(50, 10))
    cached = FeatureCache(network, None, tmp_path, 16)
    expected = cached.tensor(images).features
    monkeypatch.setattr("sfumato.evaluation.feature_cache.IN_MEMORY", 0)
    assert torch.equal(cached.tensor(images).features, expected)


def test_splits_of_a_named_set() -> None:
    splits = load(DataConfig(source="digits"))
    assert stored_images("digits").count == len(splits.held_out)
    train = stored_images("digits:train")
    assert train.count == len(splits.train)
    assert train.other is not None
    assert train.other.digest == splits.held_out.digest
    assert stored_images("digits:train", ["data.classes=[3]"]).count < train.count / 8


def test_default_features_follow_the_reference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Grey or tiny with classes: the classifier; else the FID's network if it is available."""
    digits = stored_images("digits")
    assert default_features(digits.image_shape, digits.has_teacher).kind == "classifier"
    assert default_features((1, 28, 28), False).kind == "efficientnet-lite0"
    assert "since those of the FID are unavailable: no connection" in capsys.readouterr().err
    monkeypatch.setattr(
        "sfumato.evaluation.protocol.standard_weights", lambda cache: tmp_path / "w.pth"
    )
    assert default_features((3, 32, 32), True).kind == "inception"
    assert default_features((3, 8, 8), True).kind == "classifier"


def test_a_conditional_run_takes_the_label_frequencies_of_real_images(tmp_path: Path) -> None:
    """Of the floor's images where there is another split, else of a new draw from the same."""
    run = train(experiment(DIFFUSION, sample_images=0, budget_images=32), tmp_path / "run")
    ours, digits = (
        image_source(str(run.directory)),
        stored_images("digits:train", ["data.classes=[3,5]"]),
    )
    assert with_real_frequencies(ours, digits, 0) is ours  # other classes
    digits = stored_images("digits")
    same_shares = with_real_frequencies(ours, digits, 0)
    other = digits.other
    assert isinstance(same_shares, GeneratedImages)
    assert same_shares.classes is not None
    assert other is not None
    count = 200
    floor = torch.from_numpy(other.labels[draw(count, len(other), 0)])
    assert torch.bincount(same_shares.classes[:count]).tolist() == torch.bincount(floor).tolist()
    alone = with_real_frequencies(ours, replace(digits, other=None), 0)
    assert isinstance(alone, GeneratedImages)
    assert alone.classes is not None
    shares = torch.bincount(alone.classes) / len(alone.classes)
    assert digits.parts[0].labels is not None
    real = np.bincount(digits.parts[0].labels) / digits.count
    assert np.abs(shares.numpy() - real).max() < 0.03
    results = score(ours, digits, config(num_images=40))
    assert results.protocol["labels"] == "frequencies of a draw of real images"
    both = score(ours, ours, config(num_images=40, metrics=["kernel_distance"]))
    assert both.protocol["labels"] == "equal numbers"
    assert both.protocol["floor"] == "40 against 40 images of the reference's source"
    assert both.protocol["sampler"] == both.protocol["reference_sampler"]
    assert str(both.protocol["sampler"]).startswith("ddim, steps 3")
    assert both.protocol["guidance"] == "classifier_free, scale 1.0"
    assert both.protocol["weights"] == "exponential moving average"
    assert both.protocol["training_steps"] == both.protocol["reference_training_steps"] == 2
    assert both.protocol["sampling_seeds"] == "0 to 39"
    assert both.protocol["reference_sampling_seeds"] == "1000000 to 1000039"
    assert both.classes == {}  # four images of a class are too few
    assert not any(key.startswith("reference_s") for key in results.protocol)
    distance = both.scores["kernel_distance"]  # two draws of one model, with noise of their own
    assert distance.standard_error is not None
    assert 0 < abs(distance.value) < 4 * distance.standard_error
    digest = results.scores["frechet_distance"].protocol
    assert digest == results.floors["frechet_distance"].protocol
    assert digest != both.scores["kernel_distance"].protocol


def test_bad_input_says_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = save_npz(tmp_path / "a.npz", pictures(20, 11))
    with pytest.raises(ConfigError, match=r"num_images is 30, but .* has 20 images"):
        score(stored_images(a), stored_images(a), config(num_images=30))
    with pytest.raises(ConfigError, match="--features efficientnet-lite0"):
        score(stored_images(a), stored_images(a), config(features={"kind": "classifier"}))
    for arguments, message in [
        ([a], "REFERENCE, or ask for its --floor-curve"),
        ([a, a, a], "one set too many"),
        ([a, a, "training.seed=1"], "evaluation.* and data.* do"),
        ([a, str(tmp_path / "none")], "neither a name of the catalogue nor a path"),
        ([a, a, "--metrics", "nll"], "leave out B"),
    ]:
        assert main(["evaluate", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_the_command_prints_table_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = save_npz(tmp_path / "a.npz", pictures(40, 12, shift=30))
    b = save_folder(tmp_path / "b", pictures(60, 13))
    assert main(["evaluate", a, b, "evaluation.seed=1"]) == 0
    printed = capsys.readouterr().out
    for word in ("Fréchet distance", "Kernel distance", "Precision", "× floor", "colours"):
        assert word in printed
    assert "FID" not in printed
    assert main(["evaluate", a, b, "--metrics", "frechet_distance", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    excess = found["excess"]["frechet_distance"]
    value, floor = (found[k]["frechet_distance"]["value"] for k in ("scores", "floors"))
    assert excess["excess"] == pytest.approx(value - floor)
    assert excess["ratio"] == pytest.approx(value / floor)


def test_floor_curve_falls_and_says_where_it_is_no_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Disjoint up to half of the images; at all of them both sides are one set, at distance 0."""
    splits = load(DataConfig(source=save_npz(tmp_path / "x.npz", pictures(600, 14))))
    points = floor_curve(splits, config()).points
    assert [p.n for p in points] == sizes(600) == [100, 182, 300, 330, 600]
    assert [p.shared for p in points] == [0, 0, 0, 60, 600]
    assert [p.disjoint for p in points] == [True, True, True, False, False]
    assert points[0].distance.value > points[2].distance.value > points[-1].distance.value
    assert points[-1].distance.value < 1e-6 * points[0].distance.value
    renamed = load(DataConfig(source=save_npz(tmp_path / "y.npz", pictures(600, 14))))
    protocols = [point.distance.protocol for point in points]
    assert [p.distance.protocol for p in floor_curve(renamed, config()).points] == protocols
    assert len({*protocols, None}) == len(points) + 1  # each N is a protocol of its own
    path = tmp_path / "floor.png"
    assert main(["evaluate", str(tmp_path / "x.npz"), "--floor-curve", "-o", str(path)]) == 0
    assert "no floor: 600 images on both sides" in capsys.readouterr().out
    with Image.open(path) as picture:
        assert picture.width > 500
    written = json.loads(path.with_suffix(".json").read_text())
    assert [p["n"] for p in written["points"]] == sizes(600)
