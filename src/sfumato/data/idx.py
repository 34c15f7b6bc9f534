"""The idx format of MNIST and its relatives, plain or gzip."""

import zlib
from gzip import GzipFile
from io import BufferedReader
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from sfumato.core.errors import DataError
from sfumato.data import source
from sfumato.data.archive import uncompressed
from sfumato.data.source import Part, Parts, Source, StoredImages, numbered_classes

DAMAGE = (OSError, EOFError, zlib.error)

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx_folder(folder: Path, name: str, class_names: tuple[str, ...] = ()) -> Source:
    """A folder with the idx files under MNIST's names, `.gz` or not; the test files may lack.

    Raises:
        DataError: a training file is missing.
    """
    found = {split: [find_idx(folder, file) for file in NAMES[split]] for split in NAMES}
    for file, path in zip(NAMES["train"], found["train"], strict=True):
        if path is None:
            raise DataError(f"{folder} has no {file}.gz; put it there")
    files = tuple(path for paths in found.values() for path in paths if path is not None)

    def read() -> Parts:
        train = _read_part(found["train"])
        test = None if None in found["test"] else _read_part(found["test"])
        assert train.labels is not None
        return Parts(train, test, class_names or numbered_classes(train.labels))

    return Source(name=name, files=files, root=folder, read=read)


def find_idx(folder: Path, name: str) -> Path | None:
    """The file `name` or `name`.gz in `folder`."""
    candidates = (folder / f"{name}.gz", folder / name, folder / name.replace("-idx", ".idx"))
    return next((path for path in candidates if path.is_file()), None)


def _read_part(paths: list[Path | None]) -> Part:
    image_path, label_path = paths
    assert image_path is not None
    assert label_path is not None
    shape, start = _header(image_path)
    labels = read_idx(label_path)
    if len(shape) != 3 or labels.ndim != 1 or shape[0] != len(labels):
        raise DataError(
            f"{image_path} holds an array of shape {shape} and {label_path} one of "
            f"{labels.shape}; expected [N, H, W] and [N]: fetch them again"
        )
    if int(np.prod(shape, dtype=object)) <= source.IN_MEMORY:
        return Part(read_idx(image_path)[:, None], labels.astype(np.int64))
    return Part(_stored(image_path, shape, start), labels.astype(np.int64))


def _stored(path: Path, shape: tuple[int, ...], start: int) -> StoredImages:
    """Images that are not read now: in their file, or an unpacked copy of it in the cache."""
    try:
        plain = uncompressed(path, ".idx")
        _check_size(path, shape, plain.stat().st_size - start)
    except DAMAGE as error:
        raise DataError(f"cannot read {path}: {error}; fetch it again") from None
    return StoredImages(plain, start, shape[0], shape[1:])


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Read an idx file of unsigned bytes, compressed or not.

    Raises:
        DataError: unreadable, truncated, or not idx.
    """
    shape, start = _header(path)
    try:
        with _open(path) as file:
            content = file.read()
    except DAMAGE as error:
        raise DataError(f"cannot read {path}: {error}; fetch it again") from None
    _check_size(path, shape, len(content) - start)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _open(path: Path) -> GzipFile | BufferedReader:
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    return GzipFile(path) if is_packed else path.open("rb")


def _header(path: Path) -> tuple[tuple[int, ...], int]:
    """The shape of the array in an idx file, and where its values begin.

    Raises:
        DataError: unreadable, or not idx.
    """
    try:
        with _open(path) as file:
            begin = file.read(4)
            sizes = file.read(4 * begin[3]) if len(begin) == 4 else b""
    except DAMAGE as error:
        raise DataError(f"cannot read {path}: {error}; fetch it again") from None
    if len(begin) < 4 or begin[:3] != b"\0\0\x08" or len(sizes) < 4 * begin[3]:
        raise DataError(f"{path} is not an idx file of unsigned bytes; fetch it again")
    return tuple(int(size) for size in np.frombuffer(sizes, ">u4")), 4 + len(sizes)


def _check_size(path: Path, shape: tuple[int, ...], found: int) -> None:
    expected = int(np.prod(shape, dtype=object))
    if found != expected:
        raise DataError(
            f"{path} is damaged: shape {list(shape)} needs {expected} bytes of values, "
            f"found {max(found, 0)}; fetch it again"
        )
