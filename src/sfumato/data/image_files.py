"""Image files in a folder, zip or tar; the names of their folders are the classes.

Archives are read in place: nothing is extracted under a name from an archive."""

import bz2
import functools
import gzip
import itertools
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import numpy as np

from sfumato.core.errors import DataError
from sfumato.core.files import atomic_path, cache_folder
from sfumato.data.cache import content_digest, make_folder, readable, require_space
from sfumato.data.decode import SUFFIXES
from sfumato.data.source import RawSplit, RawSplits, Records, Source

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "held-out")

RecordsOf = Callable[[Sequence[str]], Records]
TarPlaces = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class FileRecords(Records):
    """Image files under `root`."""

    root: Path

    def read(self, index: int) -> bytes:
        return (self.root / self.names[index]).read_bytes()


def image_folder(folder: Path) -> Source:
    """Images in `folder`, in class folders, or in `train` and `test` folders of class folders.

    Raises:
        DataError: the folder holds no images.
    """
    paths = image_paths(folder)
    require_images(folder, paths)

    def read() -> RawSplits:
        return divide(paths, lambda chosen: FileRecords(chosen, folder))

    files = tuple(folder / path for path in paths)
    return Source(name=folder.resolve().name, files=files, root=folder, read=read)


def require_images(path: Path, names: Sequence[str]) -> None:
    """Raises DataError without `names` of images in a folder or archive."""
    if not names:
        raise DataError(
            f"{path} holds no images ({', '.join(SUFFIXES)}); put images into it, "
            "in one folder per class if they have classes"
        )


def image_paths(folder: Path) -> list[str]:
    """The image files below `folder`, as sorted relative paths; without hidden files."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; check its permissions")

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


def divide(paths: Sequence[str], records: RecordsOf) -> RawSplits:
    """Splits and classes from the folders in paths such as `train/cat/1.png` or `cat/1.png`.

    Raises:
        DataError: a test class has no training images.
    """
    inside = [PurePosixPath(path).parts for path in paths]
    depth = _common_depth(inside)
    first = {parts[depth].lower() for parts in inside if len(parts) > depth + 1}
    loose = any(len(parts) == depth + 1 for parts in inside)
    has_splits = not loose and first <= {*TRAIN_NAMES, *TEST_NAMES} and first & {*TRAIN_NAMES}
    if not has_splits:
        labels, names = _labels(inside, depth)
        return RawSplits(RawSplit(records(paths), labels), None, names)
    is_train = np.array([parts[depth].lower() in TRAIN_NAMES for parts in inside])
    labels, names = _labels(inside, depth + 1)

    def part(mask: np.ndarray) -> RawSplit:
        chosen = None if labels is None else labels[mask]
        return RawSplit(records(list(itertools.compress(paths, mask))), chosen)

    train, test = part(is_train), part(~is_train)
    if labels is not None and (missing := set(labels) - set(labels[is_train])):
        raise DataError(
            f"class {names[min(missing)]!r} has test images but no training images; "
            "add some or remove its folder"
        )
    return RawSplits(train, test if len(test.images) else None, names)


def _common_depth(inside: list[tuple[str, ...]]) -> int:
    """Number of leading folders that all paths share, as in an archive of one folder."""
    depth = 0
    while True:
        firsts = {parts[depth] if len(parts) > depth + 1 else "" for parts in inside}
        only = next(iter(firsts))
        if len(firsts) > 1 or not only or only.lower() in (*TRAIN_NAMES, *TEST_NAMES):
            return depth
        depth += 1


def _labels(inside: list[tuple[str, ...]], depth: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Classes from the folder at `depth`; none if an image has no folder there."""
    if any(len(parts) <= depth + 1 for parts in inside):
        return None, ()
    names, labels = np.unique([parts[depth] for parts in inside], return_inverse=True)
    return labels.astype(np.int64), tuple(map(str, names))


ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
"""Decompressors by the first bytes of a file."""
MAX_BYTES = 2**30
"""Larger members are ignored: no image file is that large."""
MAX_RATIO = 100
"""Images hardly compress: an archive that unpacks to more than this many times its size counts as
an attack on the disk."""


@dataclass(frozen=True)
class ZipRecords(Records):
    """Members of a zip file."""

    path: Path

    def read(self, index: int) -> bytes:
        archive = _open_zip(self.path)
        try:
            if archive.getinfo(self.names[index]).file_size > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES} bytes")
            return archive.read(self.names[index])
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            raise ValueError(str(error)) from None  # damaged, encrypted, unknown compression


@functools.lru_cache(maxsize=4)
def _open_zip(path: Path) -> zipfile.ZipFile:
    """Opens the file once per process: opening reads the whole directory."""
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class TarRecords(Records):
    """Members of an uncompressed tar file. `places`: (position, bytes) of each."""

    path: Path
    places: tuple[tuple[int, int], ...]

    def read(self, index: int) -> bytes:
        position, size = self.places[index]
        with self.path.open("rb") as file:
            file.seek(position)
            content = file.read(size)
        if len(content) < size:
            raise ValueError("the archive ends before it")
        return content


def image_archive(path: Path) -> Source:
    """A zip or tar, compressed or not, with the layout of an image folder."""

    def read() -> RawSplits:
        if path.suffix.lower() in ZIP_SUFFIXES:
            with readable(path):
                names = [info.filename for info in _open_zip(path).infolist() if not info.is_dir()]
            return divide(image_names(path, names), lambda part: ZipRecords(part, path))
        plain, places = tar_members(path)
        chosen = image_names(path, list(places))
        return divide(chosen, lambda part: tar_records(plain, part, places))

    suffixes = [s for s in (*TAR_SUFFIXES, *ZIP_SUFFIXES) if path.name.lower().endswith(s)]
    name = path.name[: -len(max(suffixes, key=len))]
    return Source(name=name, files=(path,), root=path.parent, read=read)


def tar_records(plain: Path, names: Sequence[str], places: TarPlaces) -> TarRecords:
    """The members `names` of an uncompressed tar file."""
    return TarRecords(names, plain, tuple(places[name] for name in names))


def tar_members(path: Path) -> tuple[Path, TarPlaces]:
    """An uncompressed copy of a tar file, and its regular files: name -> (position, bytes).

    Raises:
        DataError: the file is unreadable.
    """
    with readable(path), tarfile.open(plain := uncompressed(path), "r:") as archive:
        return plain, {
            member.name: (member.offset_data, member.size)
            for member in archive
            if member.isreg() and not member.issparse() and member.size <= MAX_BYTES
        }


def image_names(path: Path, names: Sequence[str]) -> list[str]:
    """The sorted names of images. Raises DataError for names that lead out of the archive."""
    for name in names:
        check_name(path, name)
    chosen = sorted(
        name
        for name in names
        if name.lower().endswith(SUFFIXES)
        and not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    )
    require_images(path, chosen)
    return chosen


def check_name(path: Path, name: str) -> None:
    """Raises DataError for a member whose name is absolute or leads out of its folder."""
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.anchor or ".." in windows.parts:
        raise DataError(
            f"{path} has a member named {name!r}, which leads out of the archive; "
            "do not trust this file, fetch it from elsewhere"
        )


def uncompressed(path: Path, suffix: str = ".tar") -> Path:
    """`path` itself, or a copy in the cache that allows random access.

    Raises:
        DataError: it unpacks to far more than images do, or the cache is not writable.
        OSError, EOFError, zlib.error, lzma.LZMAError: the file is damaged.
    """
    with path.open("rb") as file:
        magic = file.read(6)
    opener = next((opener for start, opener in OPENERS.items() if magic.startswith(start)), None)
    if opener is None:
        return path
    size = path.stat().st_size
    return unpacked(path, suffix, opener(path), size, MAX_RATIO * size + 2**20)


def unpacked(
    path: Path, suffix: str, stream: BufferedIOBase | IO[bytes], size: int, limit: int
) -> Path:
    """A copy of a stream out of the archive `path`, in the cache under its digest and `suffix`.

    Args:
        size: the least number of bytes of the copy.
        limit: the greatest.
    Raises:
        DataError: no room on the disk, or the stream is longer than `limit`.
    """
    with stream:
        folder = make_folder(cache_folder() / "unpacked")
        copy = folder / f"{content_digest([path], path.parent)[:16]}{suffix}"
        if not copy.is_file():
            require_space(folder, size)
            unpack_stream(stream, copy, limit, path)
    return copy


def unpack_stream(stream: BufferedIOBase | IO[bytes], target: Path, limit: int, path: Path) -> None:
    """Write a stream out of the archive `path` to `target`, atomically.

    Raises:
        DataError: the stream is longer than `limit` bytes.
    """
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        while block := stream.read(2**20):
            limit -= len(block)
            if limit < 0:
                raise DataError(
                    f"{path} unpacks to far more than its size; no set of images does; "
                    "do not trust this file, fetch it from elsewhere"
                )
            file.write(block)
