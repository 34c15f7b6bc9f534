"""LSUN (Yu et al. 2015): one LMDB database of WebP images for each category and split.

Needs the extra `lmdb`.
"""

import functools
import importlib.util
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.core.errors import DataError
from sfumato.core.files import cache_folder
from sfumato.data.archive import unpack_stream
from sfumato.data.cache import make_folder, require_space
from sfumato.data.download import RemoteFile, fetch
from sfumato.data.source import JoinedRecords, Part, Parts, Records, Source

if TYPE_CHECKING:
    import lmdb

HOST = "http://dl.yf.io/lsun/scenes"
CATEGORIES = (
    "bedroom", "bridge", "church_outdoor", "classroom", "conference_room",
    "dining_room", "kitchen", "living_room", "restaurant", "tower",
)  # fmt: skip
DATABASE = "data.mdb"


@dataclass(frozen=True)
class LmdbRecords(Records):
    """The values of an LMDB database."""

    folder: Path
    keys: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, index: int) -> str:
        return self.keys[index].decode(errors="replace")

    def read(self, index: int) -> bytes:
        with _open(self.folder).begin(buffers=False) as transaction:
            value: bytes | None = transaction.get(self.keys[index])
        if value is None:
            raise ValueError("not in the database")
        return value


@functools.lru_cache(maxsize=16)
def _open(folder: Path) -> "lmdb.Environment":
    import lmdb

    # No locks, so that a read-only disk will do; no readahead, because access is scattered.
    return lmdb.open(str(folder), readonly=True, lock=False, readahead=False, max_readers=1)


def lsun(category: str) -> Source:
    """A scene category of LSUN; its 300 validation images are the test split."""
    dataset = f"lsun-{category.replace('_', '-')}"
    folder = make_folder(cache_folder() / "unpacked" / dataset)
    for split in ("train", "val"):
        name = f"{category}_{split}_lmdb"
        if not (folder / name / DATABASE).is_file():
            # The authors publish no checksums; the zip's own are verified in unpacking.
            file = RemoteFile(f"{name}.zip", f"{HOST}/{name}.zip", None)
            _unpack(fetch(dataset, file), folder / name / DATABASE)
    return lsun_folder(folder, dataset)


def is_lsun_folder(folder: Path) -> bool:
    """Whether `folder` is such a database or holds some."""
    return (folder / DATABASE).is_file() or bool(_databases(folder, "train"))


def lsun_folder(folder: Path, name: str) -> Source:
    """A database, or a folder of `<category>_train_lmdb` and, for the test split, `_val_lmdb`.

    Several categories are the classes.

    Raises:
        DataError: the extra is missing, or a category lacks its validation images.
    """
    if importlib.util.find_spec("lmdb") is None:
        raise DataError(f"{name} is an LMDB database; install the extra: pip install sfumato[lmdb]")
    train = {"": folder} if (folder / DATABASE).is_file() else _databases(folder, "train")
    test = {} if (folder / DATABASE).is_file() else _databases(folder, "val")
    if test and set(test) != set(train):
        missing = sorted(set(train) ^ set(test))
        raise DataError(f"{folder} has only one split of {missing[0]!r}; add the other")

    def read() -> Parts:
        names = tuple(train) if len(train) > 1 else ()
        return Parts(_part(train), _part(test) if test else None, names)

    files = tuple(database / DATABASE for database in (*train.values(), *test.values()))
    return Source(name=name, files=files, root=folder, read=read)


def _databases(folder: Path, split: str) -> dict[str, Path]:
    ending = f"_{split}_lmdb"
    found = sorted(path for path in folder.glob(f"*{ending}") if (path / DATABASE).is_file())
    return {path.name.removesuffix(ending): path for path in found}


def _part(databases: dict[str, Path]) -> Part:
    parts = [LmdbRecords(folder, _keys(folder)) for folder in databases.values()]
    if len(parts) == 1:
        return Part(parts[0], None)
    sizes = [len(part) for part in parts]
    return Part(JoinedRecords(tuple(parts)), np.repeat(np.arange(len(parts)), sizes))


def _keys(folder: Path) -> tuple[bytes, ...]:
    import lmdb

    try:
        with _open(folder).begin() as transaction:
            return tuple(transaction.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise DataError(f"cannot read {folder / DATABASE}: {error}; fetch it again") from None


def _unpack(archive: Path, target: Path) -> None:
    """Take the database out of its zip file."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            member: Any = next(i for i in zipped.infolist() if i.filename.endswith(f"/{DATABASE}"))
            make_folder(target.parent)
            require_space(target.parent, member.file_size)
            with zipped.open(member) as stream:
                unpack_stream(stream, target, member.file_size, archive)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise DataError(
            f"{archive} is not a zip file with {DATABASE}: {error}; delete it to fetch it again"
        ) from None
