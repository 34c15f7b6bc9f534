"""Splits, classes and limits: by content, stratified, nested, the same in any order of files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.core.config import parse
from sfumato.core.errors import ConfigError, DataError
from sfumato.data.catalogue import choose, held_out_mask, load
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Dataset
from sfumato.data.source import first_of_each, image_hashes

RNG = np.random.default_rng(0)


def contents(dataset: Dataset) -> set[bytes]:
    return {bytes(row) for row in dataset.hashes}


def write(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    """400 images of four classes that hold 50, 75, 100 and 175 of them."""
    return (
        RNG.integers(0, 256, (400, 4, 4), dtype=np.uint8),
        np.repeat(np.arange(4), (50, 75, 100, 175)),
    )


def loaded(path: Path, **changes: Any) -> tuple[Dataset, Dataset]:
    splits = load(DataConfig(source=str(path), **changes))
    return splits.train, splits.held_out


def test_held_out_is_stratified_disjoint_and_complete(tmp_path: Path, images: Any) -> None:
    train, held_out = loaded(write(tmp_path / "a.npz", *images), held_out=0.2)
    assert np.bincount(held_out.labels).tolist() == [10, 15, 20, 35]
    assert contents(train) & contents(held_out) == set()
    assert len(contents(train) | contents(held_out)) == 400
    assert (train.split, held_out.split) == ("train", "held-out")


def test_the_split_does_not_depend_on_the_order_of_the_images(tmp_path: Path, images: Any) -> None:
    x, y = images
    shuffled = RNG.permutation(400)
    one = loaded(write(tmp_path / "a.npz", x, y))
    other = loaded(write(tmp_path / "b.npz", x[shuffled], y[shuffled]))
    assert contents(one[1]) == contents(other[1])


def test_adding_images_moves_few_others(tmp_path: Path, images: Any) -> None:
    x, y = images
    before = loaded(write(tmp_path / "a.npz", x[:-20], y[:-20]), held_out=0.2)[1]
    after = loaded(write(tmp_path / "b.npz", x, y), held_out=0.2)[1]
    assert len(contents(before) - contents(after)) <= 4


def test_equal_images_never_stand_on_both_sides(images: Any) -> None:
    x, _ = images
    x = np.concatenate([x, x, x])[:, None]
    y = RNG.integers(0, 3, len(x))
    mask = held_out_mask(image_hashes(x), y, 0.3)
    assert (mask[:400] == mask[400:800]).all()
    assert (mask[:400] == mask[800:]).all()
    assert 0.25 < mask.mean() < 0.6


def test_choose_gives_the_exact_count_in_proportion() -> None:
    labels = np.repeat(np.arange(3), (10, 30, 60))
    keys = RNG.integers(0, 2**63, 100).astype(np.uint64)
    for count in (0, 1, 10, 37, 100, 500):
        rows = choose(keys, labels, count)
        assert len(rows) == min(count, 100)
        assert (np.diff(rows) > 0).all()
        share = np.bincount(labels[rows], minlength=3) - np.array([0.1, 0.3, 0.6]) * len(rows)
        assert np.abs(share).max() <= 1


def test_limits_are_nested_and_leave_the_held_out_images_alone(tmp_path: Path, images: Any) -> None:
    path = write(tmp_path / "a.npz", *images)
    whole, held_out = loaded(path)
    large, held_out_too = loaded(path, fraction=0.5)
    small, _ = loaded(path, limit=40)
    assert (len(whole), len(large), len(small)) == (320, 160, 40)
    assert contents(small) < contents(large) < contents(whole)
    assert held_out_too.digest == held_out.digest
    assert np.bincount(small.labels).tolist() == pytest.approx([5, 7.5, 10, 17.5], abs=0.51)


def test_limit_and_held_out_are_independent_choices(tmp_path: Path, images: Any) -> None:
    """Did both rank by the same bytes, the limit would always take the neighbours of the split."""
    x = RNG.integers(0, 256, (4000, 4, 4), dtype=np.uint8)
    train, _ = loaded(write(tmp_path / "a.npz", x, np.zeros(4000, np.int64)), held_out=0.5)
    small = train.subset(choose(train.hashes[:, 8:16].copy().view("<u8").ravel(), None, 500))
    limited, _ = loaded(tmp_path / "a.npz", held_out=0.5, limit=500)
    assert contents(limited) == contents(small)
    first_bytes = limited.hashes[:, :8].copy().view(">u8").astype(float).ravel() / 2**64
    del images
    assert first_bytes.mean() == pytest.approx(0.5, abs=0.06)


def test_classes_by_name_and_number_are_renumbered_in_the_order_given(
    tmp_path: Path, images: Any
) -> None:
    x, y = images
    path = write(tmp_path / "a.npz", x, y)
    train, held_out = loaded(path, classes=("3", 1), class_names=())
    assert train.class_names == ("3", "1")
    both = np.concatenate([train.images, held_out.images])
    wanted = {i.tobytes() for i in x[np.isin(y, (1, 3))]}
    assert {i.tobytes() for i in both} == wanted
    labels = dict(zip((i.tobytes() for i in x), y, strict=True))
    assert train.labels is not None
    for image, label in zip(train.images, train.labels, strict=True):
        assert labels[image.tobytes()] == (3, 1)[label]


def test_class_names_can_be_given(tmp_path: Path, images: Any) -> None:
    path = write(tmp_path / "a.npz", *images)
    names = ("north", "east", "south", "west")
    train, _ = loaded(path, class_names=names, classes=("west",))
    assert train.class_names == ("west",)
    assert len(train) == 140
    with pytest.raises(DataError, match="gives 2 names, but a has 4 classes"):
        loaded(path, class_names=("x", "y"))


def test_class_that_does_not_exist(tmp_path: Path, images: Any) -> None:
    path = write(tmp_path / "a.npz", *images)
    with pytest.raises(DataError, match="no class 'sout'; did you mean 'south'"):
        loaded(path, class_names=("north", "east", "south", "west"), classes=("sout",))
    with pytest.raises(DataError, match="no class 4; its classes: 0, 1, 2, 3"):
        loaded(path, classes=(4,))
    with pytest.raises(DataError, match="twice, by name and number"):
        loaded(path, classes=(2, "2"))


def test_unlabelled_sets_have_no_classes_to_choose(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=RNG.integers(0, 256, (9, 4, 4), dtype=np.uint8))
    with pytest.raises(DataError, match="needs labels, and a has none"):
        loaded(tmp_path / "a.npz", classes=("cat",))


def test_the_sources_own_test_split_unless_a_number_is_given(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (50, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x[:40], x_test=x[40:])
    _, test = loaded(tmp_path / "a.npz")
    assert np.array_equal(test.images[:, 0], x[40:])
    train, validation = loaded(tmp_path / "a.npz", held_out=0.25)
    assert (len(train), len(validation)) == (30, 10)
    assert contents(test) & (contents(validation) | contents(train)) == set()


def test_duplicates_can_be_dropped(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (30, 4, 4), dtype=np.uint8)
    np.savez(
        tmp_path / "a.npz",
        x_train=np.concatenate([x[:20], x[:3]]),
        x_test=np.concatenate([x[20:], x[18:20], x[20:21]]),
    )
    kept = loaded(tmp_path / "a.npz")
    assert tuple(map(len, kept)) == (23, 13)
    train, held_out = loaded(tmp_path / "a.npz", duplicates="drop")
    assert (len(train), len(held_out)) == (18, 12)
    assert contents(train) & contents(held_out) == set()
    assert first_of_each(train.hashes).all()


def test_nothing_left_is_explained(tmp_path: Path, images: Any) -> None:
    path = write(tmp_path / "a.npz", *images)
    with pytest.raises(DataError, match="no train images left"):
        loaded(path, fraction=0.001)
    with pytest.raises(DataError, match="no held-out images left"):
        loaded(path, held_out=0.001)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"resolution": 0}, "resolution is 0"),
        ({"resolution": [8, -1]}, r"resolution is \(8, -1\)"),
        ({"held_out": 1.5}, "'held_out' is 1.5; it should be"),
        ({"fraction": 0.0}, "'fraction' is 0.0; it should be"),
        ({"limit": 0}, "'limit' is 0; it should be"),
        ({"classes": [1, 1]}, "names a class twice"),
        ({"source": ""}, "source is empty"),
        ({"augment": {"shift": -1}}, "shift' is -1; it should be"),
        ({"clases": ["cat"]}, "did you mean 'classes'"),
        ({"fit": "stretch"}, "fit"),
    ],
)
def test_bad_config_is_explained(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(DataConfig, mapping, "recipe.toml")


def test_config_as_written_in_toml() -> None:
    config = parse(
        DataConfig,
        {"resolution": [48, 64], "classes": ["cat", 3], "channels": 1, "held_out": 0.1},
        "recipe.toml",
    )
    assert config.size == (48, 64)
    assert config.classes == ("cat", 3)
    assert parse(DataConfig, {"resolution": 32}, "x").size == (32, 32)
    assert parse(DataConfig, {}, "x").size is None
