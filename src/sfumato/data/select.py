"""From packed splits to the images asked for: classes, held-out part, limits, duplicates."""

import difflib

import numpy as np

from sfumato.core.errors import DataError
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Dataset, SplitName, Splits
from sfumato.data.packed import Packed
from sfumato.data.packing import PackedParts
from sfumato.data.source import Source
from sfumato.data.split import as_items, first_of_each, held_out_mask, subset_rows


def select(source: Source, packed: PackedParts, config: DataConfig) -> Splits:
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


def select_whole(source: Source, packed: PackedParts, config: DataConfig) -> tuple[Dataset, ...]:
    """All images of the chosen classes, as they are: a set for each split of the source.

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


def _dataset(source: Source, packed: Packed, split: SplitName, config: DataConfig) -> Dataset:
    names = packed.class_names
    if config.class_names:
        if len(config.class_names) != len(names):
            raise DataError(
                f"class_names gives {len(config.class_names)} names, but {source.name} has "
                f"{len(names)} classes; give one name a class"
            )
        names = config.class_names
    return Dataset(packed.images, packed.labels, names, source.name, split, packed.hashes)


def _keep_classes(dataset: Dataset, config: DataConfig) -> Dataset:
    """The images of the chosen classes, renumbered in the order in which they were chosen."""
    if not config.classes:
        return dataset
    if dataset.labels is None:
        raise DataError(
            f"classes={list(config.classes)} cannot be chosen: {dataset.name} has no labels"
        )
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
