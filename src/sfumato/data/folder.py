"""A folder of images; the names of its sub-folders are the classes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from sfumato.core.errors import DataError
from sfumato.data.decode import SUFFIXES
from sfumato.data.source import Part, Parts, Records, Source

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "held-out")

RecordsOf = Callable[[Sequence[str]], Records]


@dataclass(frozen=True)
class FileRecords(Records):
    """Image files under `root`."""

    root: Path
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> bytes:
        return (self.root / self.paths[index]).read_bytes()


def image_folder(folder: Path) -> Source:
    """Images in `folder`, in class folders, or in `train` and `test` folders of class folders.

    Raises:
        DataError: it holds no images.
    """
    paths = image_paths(folder)
    if not paths:
        raise DataError(
            f"{folder} holds no images ({', '.join(SUFFIXES)}); put images into it, "
            "in one sub-folder a class if they have classes"
        )

    def read() -> Parts:
        return divide(paths, lambda chosen: FileRecords(folder, tuple(chosen)))

    files = tuple(folder / path for path in paths)
    return Source(name=folder.resolve().name, files=files, root=folder, read=read)


def image_paths(folder: Path) -> list[str]:
    """The image files below `folder`, relative to it, sorted; hidden ones are left out."""

    def refuse(error: OSError) -> None:
        raise DataError(
            f"cannot read {error.filename}: {error.strerror}; check that it may be read"
        )

    found, seen = [], set()
    for directory, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(directory)) in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(directory).relative_to(folder)
        found += [
            (inside / name).as_posix()
            for name in names
            if not name.startswith(".") and name.lower().endswith(SUFFIXES)
        ]
    return sorted(found)


def divide(paths: Sequence[str], records: RecordsOf) -> Parts:
    """Splits and classes from the folders in paths such as `train/cat/1.png` or `cat/1.png`.

    Raises:
        DataError: a test class that has no training images.
    """
    inside = [PurePosixPath(path).parts for path in paths]
    depth = _common_depth(inside)
    first = {parts[depth].lower() for parts in inside if len(parts) > depth + 1}
    loose = any(len(parts) == depth + 1 for parts in inside)
    has_splits = not loose and first <= {*TRAIN_NAMES, *TEST_NAMES} and first & {*TRAIN_NAMES}
    if not has_splits:
        labels, names = _labels(inside, depth)
        return Parts(Part(records(paths), labels), None, names)
    is_train = np.array([parts[depth].lower() in TRAIN_NAMES for parts in inside])
    labels, names = _labels(inside, depth + 1)
    parts = []
    for wanted in (True, False):
        rows = np.flatnonzero(is_train == wanted)
        chosen = None if labels is None else labels[rows]
        parts.append(Part(records([paths[int(row)] for row in rows]), chosen))
    train, test = parts
    if labels is not None and (missing := set(labels) - set(labels[is_train])):
        raise DataError(
            f"class {names[min(missing)]!r} has test images but no training images; "
            "add some or remove its folder"
        )
    return Parts(train, test if len(test.images) else None, names)


def _common_depth(inside: list[tuple[str, ...]]) -> int:
    """How many folders all paths share, as in an archive of one folder (`cats/...`)."""
    depth = 0
    while True:
        firsts = {parts[depth] if len(parts) > depth + 1 else "" for parts in inside}
        only = next(iter(firsts))
        if len(firsts) > 1 or not only or only.lower() in (*TRAIN_NAMES, *TEST_NAMES):
            return depth
        depth += 1


def _labels(inside: list[tuple[str, ...]], depth: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Classes from the folder at `depth`; none when some image is in no folder there."""
    if any(len(parts) <= depth + 1 for parts in inside):
        return None, ()
    names = sorted({parts[depth] for parts in inside})
    number = {name: index for index, name in enumerate(names)}
    return np.array([number[parts[depth]] for parts in inside], dtype=np.int64), tuple(names)
