"""From a name or a path to the images: what `data.source` may say."""

import difflib
from pathlib import Path

from sfumato.core.errors import DataError
from sfumato.data.class_names import CIFAR10, DIGITS, FASHION_MNIST
from sfumato.data.config import DataConfig
from sfumato.data.dataset import Splits
from sfumato.data.digits import digits
from sfumato.data.folder import image_folder
from sfumato.data.idx import NAMES, find_idx, idx_folder
from sfumato.data.npz import npz_file
from sfumato.data.packing import pack
from sfumato.data.select import select
from sfumato.data.source import Source

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist installs the idx files."""

CATALOGUE = {
    "digits": digits,
    "fashion-mnist": lambda: idx_folder(DEBIAN_FASHION_MNIST, "fashion-mnist", FASHION_MNIST),
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


def find(name: str) -> Source:
    """The source of that name or path. Raises DataError when there is none."""
    if name in CATALOGUE:
        return CATALOGUE[name]()
    path = Path(name).expanduser()
    if path.is_dir():
        has_idx = find_idx(path, NAMES["train"][0])
        return idx_folder(path, path.resolve().name) if has_idx else image_folder(path)
    if path.is_file() and path.suffix == ".npz":
        known = next((v for k, v in NAMED_FILES.items() if path.name.startswith(k)), ())
        return npz_file(path, known)
    if path.exists():
        raise DataError(f"{path} is of no known kind; see `sfumato data list`")
    near = difflib.get_close_matches(name, CATALOGUE, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"names: {', '.join(CATALOGUE)}"
    raise DataError(f"data source {name!r} is no name of the catalogue and no path; {hint}")
