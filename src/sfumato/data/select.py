"""Selects images from packed splits: classes, held-out part, limits, duplicates."""

import difflib

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from sfumato.core.errors import DataError
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Dataset, SplitName, Splits
from sfumato.data.packed import PackedSplit, PackedSplits
from sfumato.data.source import Hashes, LabelArray, Source, as_items, first_of_each


def select(source: Source, packed: PackedSplits, config: DataConfig) -> Splits:
    """The training and held-out images of `packed` that `config` asks for.

    Raises:
        DataError: a class that does not exist, or nothing left.
    """
    train = _keep_classes(_dataset(source, packed.train, "train", config), config)
    if packed.test is not None and config.held_out == "auto":
        held_out = _keep_classes(_dataset(source, packed.test, "held-out", config), config)
    else:
        train, held_out = _divide(train, source, config)
    if config.duplicates == "drop":
        train, held_out = _drop_duplicates(train, held_out)
    count = round(len(train) * config.fraction)
    count = count if config.limit is None else min(count, config.limit)
    if count < len(train):
        train = train.subset(subset_rows(train.hashes, train.labels, count))
    for part in (train, held_out):
        if not len(part):
            raise DataError(
                f"{source.name} has no {part.split} images left with classes="
                f"{list(config.classes)}, fraction={config.fraction}, held_out={config.held_out}; "
                "ask for more of it"
            )
    return Splits(train, held_out)


def select_whole(source: Source, packed: PackedSplits, config: DataConfig) -> tuple[Dataset, ...]:
    """All images of the chosen classes, unchanged: one set per split of the source.

    Raises:
        DataError: a class that does not exist, or nothing left.
    """
    whole = [_dataset(source, packed.train, "train", config)]
    if packed.test is not None:
        whole.append(_dataset(source, packed.test, "held-out", config))
    kept = tuple(part for part in (_keep_classes(part, config) for part in whole) if len(part))
    if not kept:
        raise DataError(f"{source.name} has no images of classes={list(config.classes)}")
    return kept


def _dataset(source: Source, packed: PackedSplit, split: SplitName, config: DataConfig) -> Dataset:
    names = packed.class_names
    if config.class_names:
        if len(config.class_names) != len(names):
            raise DataError(
                f"class_names gives {len(config.class_names)} names, but {source.name} has "
                f"{len(names)} classes; give one name per class"
            )
        names = config.class_names
    return Dataset(packed.images, packed.labels, names, source.name, split, packed.hashes)


def _keep_classes(dataset: Dataset, config: DataConfig) -> Dataset:
    """The images of the chosen classes, numbered in the order of `classes`."""
    if not config.classes:
        return dataset
    if dataset.labels is None:
        raise DataError(f"classes={list(config.classes)} needs labels, and {dataset.name} has none")
    chosen = [_class_number(wanted, dataset) for wanted in config.classes]
    if len(set(chosen)) < len(chosen):
        raise DataError(f"classes={list(config.classes)} names a class twice, by name and number")
    renumbered = np.full(dataset.num_classes, -1, np.int64)
    renumbered[chosen] = np.arange(len(chosen))
    labels = renumbered[dataset.labels]
    rows = np.flatnonzero(labels >= 0)
    names = tuple(dataset.class_names[number] for number in chosen)
    return dataset.subset(rows).relabelled(labels[rows], names)


def _class_number(wanted: int | str, dataset: Dataset) -> int:
    names = dataset.class_names
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        return wanted
    near = difflib.get_close_matches(str(wanted), names, n=1)
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    hint = f"did you mean {near[0]!r}?" if near else f"its classes: {shown}"
    raise DataError(f"{dataset.name} has no class {wanted!r}; {hint}")


def _divide(train: Dataset, source: Source, config: DataConfig) -> tuple[Dataset, Dataset]:
    """Hold out a part of the training images."""
    fraction = source.held_out if config.held_out == "auto" else config.held_out
    mask = held_out_mask(train.hashes, train.labels, fraction)
    held_out = train.subset(np.flatnonzero(mask))
    held_out.split = "held-out"
    return train.subset(np.flatnonzero(~mask)), held_out


def _drop_duplicates(train: Dataset, held_out: Dataset) -> tuple[Dataset, Dataset]:
    held_out = held_out.subset(np.flatnonzero(first_of_each(held_out.hashes)))
    keep = first_of_each(train.hashes)
    keep &= ~np.isin(as_items(train.hashes), as_items(held_out.hashes))
    return train.subset(np.flatnonzero(keep)), held_out


def held_out_mask(
    hashes: Hashes, labels: LabelArray | None, fraction: float
) -> Bool[np.ndarray, " N"]:
    """True for the images to hold out: about `fraction` of each class.

    Equal images always fall on the same side.
    """
    chosen = choose(_part(hashes, 0), labels, round(fraction * len(hashes)))
    held = np.unique(_part(hashes, 0)[chosen])
    return np.isin(_part(hashes, 0), held)


def subset_rows(hashes: Hashes, labels: LabelArray | None, count: int) -> Int64[np.ndarray, " k"]:
    """`count` rows in their order, in the proportions of the classes; fewer are among more."""
    # Other bytes than the held-out split uses: the two choices must not depend on each other.
    return choose(_part(hashes, 1), labels, count)


def choose(
    keys: UInt64[np.ndarray, " N"], labels: LabelArray | None, count: int
) -> Int64[np.ndarray, " k"]:
    """The rows of the `count` images that come first by (rank of key in class) / class size."""
    count = min(count, len(keys))
    if labels is None:
        labels = np.zeros(len(keys), np.int64)
    order = np.lexsort((keys, labels))
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(len(keys)) - starts[labels[order]]
    # The middle of each rank's share of its class: every class is filled at the same pace.
    share = (rank + 0.5) / sizes[labels[order]]
    return np.sort(order[np.lexsort((keys[order], share))[:count]])


def _part(hashes: Hashes, which: int) -> UInt64[np.ndarray, " N"]:
    """Eight of the 32 bytes, as a number that is the same on every machine."""
    part = np.ascontiguousarray(hashes[:, 8 * which : 8 * which + 8])
    return part.view("<u8").ravel().astype(np.uint64)
