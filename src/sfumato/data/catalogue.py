"""From a name or a path to the images: what `data.source` may say."""

import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sfumato.core.errors import DataError
from sfumato.data.archive import TAR_SUFFIXES, ZIP_SUFFIXES, image_archive
from sfumato.data.cars import stanford_cars
from sfumato.data.cifar import cifar10, cifar100
from sfumato.data.class_names import CIFAR10, DIGITS, FASHION_MNIST
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Form, Splits
from sfumato.data.digits import digits
from sfumato.data.folder import image_folder
from sfumato.data.hub import PREFIX, hub_dataset, is_saved_dataset
from sfumato.data.idx import NAMES, find_idx, idx_folder
from sfumato.data.lsun import CATEGORIES, is_lsun_folder, lsun, lsun_folder
from sfumato.data.mnist import fashion_mnist, mnist
from sfumato.data.npz import npz_file
from sfumato.data.packing import is_packed_source, pack, packed_folder
from sfumato.data.select import select
from sfumato.data.source import Source


@dataclass(frozen=True)
class Entry:
    """A set that has a name. `images`, `form` and `origin` are for people to read.

    `all_alike` is the form of its images, known without having them; None when they differ.
    """

    find: Callable[[], Source]
    images: str
    form: str
    origin: str
    all_alike: Form | None = None


CATALOGUE = {
    "digits": Entry(
        digits,
        "1,797",
        "grey 8x8, 10 classes",
        "scikit-learn: no download",
        Form((1, 8, 8), 10),
    ),
    "mnist": Entry(
        mnist,
        "60,000 + 10,000",
        "grey 28x28, 10 classes",
        "download, 11 MB",
        Form((1, 28, 28), 10),
    ),
    "fashion-mnist": Entry(
        fashion_mnist,
        "60,000 + 10,000",
        "grey 28x28, 10 classes",
        "Debian's dataset-fashion-mnist, or download, 30 MB",
        Form((1, 28, 28), 10),
    ),
    "cifar10": Entry(
        cifar10,
        "50,000 + 10,000",
        "RGB 32x32, 10 classes",
        "download, 162 MB",
        Form((3, 32, 32), 10),
    ),
    "cifar100": Entry(
        cifar100,
        "50,000 + 10,000",
        "RGB 32x32, 100 classes",
        "download, 161 MB",
        Form((3, 32, 32), 100),
    ),
    "stanford-cars": Entry(
        stanford_cars, "8,144 + 8,041", "RGB, all sizes, 196 classes", "mirror or by hand, 1.9 GB"
    ),
}
CATALOGUE |= {
    f"lsun-{category.replace('_', '-')}": Entry(
        functools.partial(lsun, category),
        "millions + 300",
        "RGB, all sizes, unlabelled",
        "download, 2 to 43 GB; extra lmdb",
    )
    for category in CATEGORIES
}

OTHER_SOURCES = {
    "hf:NAME": "a set of the Hugging Face hub, or a folder written by save_to_disk; extra hub",
    "FOLDER": "images in class folders, also below train/ and test/; idx files; LSUN databases; "
    "a packed set",
    "FILE": ".npz with x and y; a .zip or .tar of images",
}

NAMED_FILES = {"cifar10": CIFAR10, "mnist": DIGITS, "fashion-mnist": FASHION_MNIST}
"""An .npz whose name begins like this and that only numbers its classes has these."""


def load(config: DataConfig, strict: bool = False, workers: int | None = None) -> Splits:
    """The images that `config` asks for, packed now if they have not been before.

    Args:
        config: what to load.
        strict: refuse odd images instead of handling and counting them.
        workers: packing processes; None is one a core.
    Raises:
        DataError: unknown source, unreadable file, no images, a class that does not exist.
    """
    source = find(config.source)
    return select(source, pack(source, config, strict, workers), config)


def form(config: DataConfig) -> Form:
    """The form of the images that `config` asks for.

    Without the images, where the catalogue knows it: nothing is downloaded, and that the classes
    exist is not checked.

    Raises:
        DataError: as `load`, where the images must be looked at.
    """
    entry = CATALOGUE.get(config.source)
    if entry is None or entry.all_alike is None:
        train = load(config).train
        return Form(train.image_shape, train.num_classes)
    channels, *size = entry.all_alike.image_shape
    height, width = config.size or size
    channels = channels if config.channels == "auto" else config.channels
    return Form((channels, height, width), len(config.classes) or entry.all_alike.num_classes)


def find(name: str) -> Source:
    """The source of that name or path. Raises DataError when there is none."""
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
    raise DataError(f"data source {name!r} is no name of the catalogue and no path; {hint}")


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
