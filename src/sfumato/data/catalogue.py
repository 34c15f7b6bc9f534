"""The catalogue: from a name or a path (`data.source`) to the images."""

import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sfumato.core.errors import DataError
from sfumato.data.arrays import NAMES, find_idx, idx_folder, npz_file
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Form, Splits
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
from sfumato.data.packing import is_packed_source, pack, packed_folder
from sfumato.data.select import select
from sfumato.data.source import Source


@dataclass(frozen=True)
class NamedSet:
    """A set with a name.

    Args:
        find: downloads it if necessary.
        images, provenance: for people to read.
        form: of every image, known without a download; text for people if the sizes differ.
    """

    find: Callable[[], Source]
    images: str
    form: Form | str
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
        "RGB, all sizes, 196 classes",
        "mirror or by hand, 1.9 GB",
    ),
}
CATALOGUE |= {
    f"lsun-{category.replace('_', '-')}": NamedSet(
        functools.partial(lsun, category),
        "millions + 300",
        "RGB, all sizes, unlabelled",
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
"""Class names for an .npz whose name begins like this and that only numbers its classes."""


def load(config: DataConfig, strict: bool = False, workers: int | None = None) -> Splits:
    """The images that `config` asks for; packs them at first use.

    Args:
        config: the images to load.
        strict: refuse odd images instead of handling and counting them.
        workers: packing processes; None is one per core.
    Raises:
        DataError: unknown source, unreadable file, no images, a class that does not exist.
    """
    source = find(config.source)
    return select(source, pack(source, config, strict, workers), config)


def form(config: DataConfig) -> Form:
    """The form of the images that `config` asks for.

    If the catalogue knows it, nothing is downloaded, and the chosen classes are not checked.

    Raises:
        DataError: as `load`, if the images must be looked at.
    """
    entry = CATALOGUE.get(config.source)
    if entry is None or isinstance(entry.form, str):
        train = load(config).train
        return Form(train.image_shape, train.num_classes)
    channels, *size = entry.form.image_shape
    height, width = config.size or size
    channels = channels if config.channels == "auto" else config.channels
    return Form((channels, height, width), len(config.classes) or entry.form.num_classes)


def find(name: str) -> Source:
    """The source of that name or path. Raises DataError if there is none."""
    if name in CATALOGUE:
        return CATALOGUE[name].find()
    if name.startswith(PREFIX):
        return hub_dataset(name.removeprefix(PREFIX))
    path = Path(name).expanduser()
    if path.is_dir():
        return _find_folder(path)
    if path.is_file():
        return _find_file(path)
    near = difflib.get_close_matches(name, CATALOGUE, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"names: {', '.join(CATALOGUE)}"
    raise DataError(f"data source {name!r} is neither a name of the catalogue nor a path; {hint}")


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
