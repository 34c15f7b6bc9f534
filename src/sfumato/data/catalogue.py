"""From a name or a path (`data.source`) to the chosen images: finds, packs and selects."""

import difflib
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from sfumato.core.errors import DataError
from sfumato.data.arrays import NAMES, find_idx, idx_folder, npz_file
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Dataset, Form, SplitName, Splits
from sfumato.data.hub import PREFIX, hub_dataset, is_saved_dataset
from sfumato.data.image_files import TAR_SUFFIXES, ZIP_SUFFIXES, image_archive, image_folder
from sfumato.data.known_sets import (
    CIFAR10,
    DIGITS,
    FASHION_MNIST,
    LSUN_CATEGORIES,
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    is_lsun_folder,
    lsun,
    lsun_folder,
    mnist,
    stanford_cars,
)
from sfumato.data.packed import PackedSplit, PackedSplits
from sfumato.data.packing import is_packed_source, pack, packed_folder
from sfumato.data.source import Hashes, LabelArray, Source, as_items, first_of_each


@dataclass(frozen=True)
class NamedSet:
    """A set of the catalogue.

    Args:
        find: finds the set; downloads it if necessary.
        images, provenance: texts for the list of sets.
        form: known without a download; height and width are 0 if the sizes differ.
    """

    find: Callable[[], Source]
    images: str
    form: Form
    provenance: str


CATALOGUE = {
    "digits": NamedSet(digits, "1,797", Form((1, 8, 8), 10), "scikit-learn: no download"),
    "mnist": NamedSet(mnist, "60,000 + 10,000", Form((1, 28, 28), 10), "download, 11 MB"),
    "fashion-mnist": NamedSet(
        fashion_mnist,
        "60,000 + 10,000",
        Form((1, 28, 28), 10),
        "Debian's dataset-fashion-mnist, or download, 30 MB",
    ),
    "cifar10": NamedSet(cifar10, "50,000 + 10,000", Form((3, 32, 32), 10), "download, 162 MB"),
    "cifar100": NamedSet(cifar100, "50,000 + 10,000", Form((3, 32, 32), 100), "download, 161 MB"),
    "stanford-cars": NamedSet(
        stanford_cars,
        "8,144 + 8,041",
        Form((3, 0, 0), 196),
        "mirror or by hand, 1.9 GB",
    ),
}
CATALOGUE |= {
    f"lsun-{category.replace('_', '-')}": NamedSet(
        functools.partial(lsun, category),
        "millions + 300",
        Form((3, 0, 0), 0),
        "download, 2 to 43 GB; extra lmdb",
    )
    for category in LSUN_CATEGORIES
}

OTHER_SOURCES = {
    "hf:NAME": "a set of the Hugging Face hub, or a folder written by save_to_disk; extra hub",
    "FOLDER": "images in class folders, also below train/ and test/; idx files; LSUN databases; "
    "a packed set",
    "FILE": ".npz with x and y; a .zip or .tar of images",
}

NAMED_FILES = {"cifar10": CIFAR10, "mnist": DIGITS, "fashion-mnist": FASHION_MNIST}
"""Beginning of the name of an .npz -> class names, if the file only numbers its classes."""


def load(config: DataConfig, strict: bool = False, workers: int | None = None) -> Splits:
    """The images that `config` selects; packs them at first use.

    Args:
        config: the images to load.
        strict: refuse odd images; otherwise they are converted or left out, and counted.
        workers: number of packing processes; None is one per core.
    Raises:
        DataError: unknown source, unreadable file, no images, a class that does not exist.
    """
    source = find(config.source)
    return _select(source, pack(source, config, strict, workers), config)


def load_whole(config: DataConfig) -> tuple[Dataset, ...]:
    """All images of the chosen classes, unchanged: one set per split of the source.

    Raises:
        DataError: as `load`.
    """
    source = find(config.source)
    packed = pack(source, config)
    whole = [_dataset(source, packed.train, "train", config)]
    if packed.test is not None:
        whole.append(_dataset(source, packed.test, "held-out", config))
    kept = tuple(part for part in (_keep_classes(part, config) for part in whole) if len(part))
    if not kept:
        raise DataError(f"{source.name} has no images of classes={list(config.classes)}")
    return kept


def known_form(config: DataConfig) -> Form | None:
    """The form of the images that `config` selects if the catalogue knows it, else None.

    Downloads nothing and does not check the chosen classes.
    """
    if config.source not in CATALOGUE:
        return None
    known = CATALOGUE[config.source].form
    channels, *size = known.image_shape
    height, width = config.size or size
    channels = channels if config.channels == "auto" else config.channels
    shape = (channels, height, width)
    return Form(shape, len(config.classes) or known.num_classes) if height else None


def form(config: DataConfig) -> Form:
    """The form of the images that `config` selects; loads them if `known_form` is None.

    Raises:
        DataError: as `load`, if the images are loaded.
    """
    if known := known_form(config):
        return known
    train = load(config).train
    return Form(train.image_shape, train.num_classes)


def find(name: str) -> Source:
    """The source with this name or path. Raises DataError for an unknown name."""
    if name in CATALOGUE:
        return CATALOGUE[name].find()
    if name.startswith(PREFIX):
        return hub_dataset(name.removeprefix(PREFIX))
    path = Path(name).expanduser()
    if path.is_dir():
        return _find_folder(path)
    if path.is_file():
        return _find_file(path)
    hint = _hint(name, CATALOGUE, "names")
    raise DataError(f"data source {name!r} is neither a name of the catalogue nor a path; {hint}")


def _hint(name: str, known: Collection[str], what: str) -> str:
    """The nearest known name, or the first 20 of all."""
    if near := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {near[0]!r}?"
    shown = list(known)[:20] + ["..."] * (len(known) > 20)
    return f"{what}: {', '.join(shown)}"


def _find_folder(path: Path) -> Source:
    if is_packed_source(path):
        return packed_folder(path)
    if is_saved_dataset(path):
        return hub_dataset(str(path))
    if find_idx(path, NAMES["train"][0]):
        return idx_folder(path, path.resolve().name)
    if is_lsun_folder(path):
        return lsun_folder(path, path.resolve().name)
    return image_folder(path)


def _find_file(path: Path) -> Source:
    name = path.name.lower()
    if name.endswith(".npz"):
        return npz_file(path, next((v for k, v in NAMED_FILES.items() if name.startswith(k)), ()))
    if name.endswith((*ZIP_SUFFIXES, *TAR_SUFFIXES)):
        return image_archive(path)
    if name in {file + ending for file in NAMES["train"] for ending in ("", ".gz")}:
        return idx_folder(path.parent, path.parent.resolve().name)
    raise DataError(
        f"{path} is of no known kind; a file should be .npz, .zip, .tar(.gz, .bz2, .xz) or "
        f"MNIST's {NAMES['train'][0]}"
    )


def _select(source: Source, packed: PackedSplits, config: DataConfig) -> Splits:
    """The training and held-out images of `packed` that `config` selects.

    Raises:
        DataError: an unknown class, or no images left.
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
                "select more of it"
            )
    return Splits(train, held_out)


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
    """The images of the chosen classes; `classes` gives the new numbers."""
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
    hint = _hint(str(wanted), names, "its classes")
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

    Equal images are on the same side.
    """
    chosen = choose(_part(hashes, 0), labels, round(fraction * len(hashes)))
    held = np.unique(_part(hashes, 0)[chosen])
    return np.isin(_part(hashes, 0), held)


def subset_rows(hashes: Hashes, labels: LabelArray | None, count: int) -> Int64[np.ndarray, " k"]:
    """`count` rows in their order, in proportion to the classes; a smaller set is a subset."""
    # The held-out split uses other bytes of the hash: the two choices must be independent.
    return choose(_part(hashes, 1), labels, count)


def choose(
    keys: UInt64[np.ndarray, " N"], labels: LabelArray | None, count: int
) -> Int64[np.ndarray, " k"]:
    """The rows of the `count` images with the lowest (rank of key in class) / class size."""
    count = min(count, len(keys))
    if labels is None:
        labels = np.zeros(len(keys), np.int64)
    order = np.lexsort((keys, labels))
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(len(keys)) - starts[labels[order]]
    # The middle of each rank's share of its class, so that all classes fill at the same rate.
    share = (rank + 0.5) / sizes[labels[order]]
    return np.sort(order[np.lexsort((keys[order], share))[:count]])


def _part(hashes: Hashes, which: int) -> UInt64[np.ndarray, " N"]:
    """Eight of the 32 bytes, as a number that is the same on every machine."""
    part = np.ascontiguousarray(hashes[:, 8 * which : 8 * which + 8])
    return part.view("<u8").ravel().astype(np.uint64)
