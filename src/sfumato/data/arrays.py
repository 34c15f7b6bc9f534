"""Sets stored as arrays: idx files as those of MNIST, and NumPy's .npz."""

import math
import struct
import zipfile
from gzip import GzipFile
from io import BufferedReader
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.lib.npyio import NpzFile

from sfumato.core.errors import DataError
from sfumato.data import source
from sfumato.data.cache import readable
from sfumato.data.image_files import uncompressed, unpacked
from sfumato.data.source import (
    ArrayFile,
    ImageArray,
    RawSplit,
    RawSplits,
    Source,
    channels_first,
    numbered_classes,
)

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx_folder(folder: Path, name: str, class_names: tuple[str, ...] = ()) -> Source:
    """A folder of idx files under MNIST's names, with or without `.gz`; test files are optional.

    Raises:
        DataError: a training file is missing.
    """
    found = {split: [find_idx(folder, file) for file in NAMES[split]] for split in NAMES}
    for file, path in zip(NAMES["train"], found["train"], strict=True):
        if path is None:
            raise DataError(f"{folder} has no {file}.gz; put it there")
    files = tuple(path for paths in found.values() for path in paths if path is not None)

    def read() -> RawSplits:
        train = _idx_split(found["train"])
        test = None if None in found["test"] else _idx_split(found["test"])
        assert train.labels is not None
        return RawSplits(train, test, class_names or numbered_classes(train.labels))

    return Source(name=name, files=files, root=folder, read=read)


def find_idx(folder: Path, name: str) -> Path | None:
    """The file `name` or `name`.gz in `folder`, else None."""
    candidates = (folder / f"{name}.gz", folder / name, folder / name.replace("-idx", ".idx"))
    return next((path for path in candidates if path.is_file()), None)


def _idx_split(paths: list[Path | None]) -> RawSplit:
    image_path, label_path = paths
    assert image_path is not None
    assert label_path is not None
    shape, start = _idx_header(image_path)
    labels = read_idx(label_path)
    if len(shape) != 3 or labels.ndim != 1 or shape[0] != len(labels):
        raise DataError(
            f"{image_path} holds an array of shape {shape} and {label_path} one of "
            f"{labels.shape}; expected [N, H, W] and [N]: fetch them again"
        )
    if math.prod(shape) <= source.MAX_BYTES_IN_MEMORY:
        return RawSplit(read_idx(image_path)[:, None], labels.astype(np.int64))
    with readable(image_path):
        plain = uncompressed(image_path, ".idx")
        _check_idx_size(image_path, shape, plain.stat().st_size - start)
    return RawSplit(ArrayFile(plain, start, shape[0], shape[1:]), labels.astype(np.int64))


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """The array of an idx file of unsigned bytes, compressed or not.

    Raises:
        DataError: the file is unreadable, truncated, or not idx.
    """
    shape, start = _idx_header(path)
    with readable(path), _open_idx(path) as file:
        content = file.read()
    _check_idx_size(path, shape, len(content) - start)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _open_idx(path: Path) -> GzipFile | BufferedReader:
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    return GzipFile(path) if is_packed else path.open("rb")


def _idx_header(path: Path) -> tuple[tuple[int, ...], int]:
    """The shape of the array in an idx file, and the position of its first value in bytes.

    Raises:
        DataError: the file is unreadable, or not idx.
    """
    with readable(path), _open_idx(path) as file:
        begin = file.read(4)
        sizes = file.read(4 * begin[3]) if len(begin) == 4 else b""
    if len(begin) < 4 or begin[:3] != b"\0\0\x08" or len(sizes) < 4 * begin[3]:
        raise DataError(f"{path} is not an idx file of unsigned bytes; fetch it again")
    return tuple(int(size) for size in np.frombuffer(sizes, ">u4")), 4 + len(sizes)


def _check_idx_size(path: Path, shape: tuple[int, ...], found: int) -> None:
    expected = math.prod(shape)
    if found != expected:
        raise DataError(
            f"{path} is damaged: shape {list(shape)} needs {expected} bytes of values, "
            f"found {max(found, 0)}; fetch it again"
        )


NPZ_LAYOUT = "it should hold x and, if labelled, y (or x_train, y_train, x_test, y_test)"


def npz_file(path: Path, class_names: tuple[str, ...] = ()) -> Source:
    """An .npz of uint8 images, [N, H, W], [N, H, W, C] or [N, C, H, W], and integer labels.

    The archive holds `x` and `y`, or `x_train, y_train, x_test, y_test`. Images of more than
    MAX_BYTES_IN_MEMORY stay in the archive, or in an unpacked copy in the cache. Class names come
    from an array `class_names` of strings, else from the argument if the number of classes fits.
    """

    def read() -> RawSplits:
        with readable(path, NPZ_LAYOUT), np.load(path, allow_pickle=False) as archive:
            return _npz_splits(path, archive, class_names)

    return Source(name=path.stem, files=(path,), root=path.parent, read=read)


def _npz_splits(path: Path, archive: NpzFile, names: tuple[str, ...]) -> RawSplits:
    suffix = "_train" if "x_train" in archive else ""
    if f"x{suffix}" not in archive:
        raise DataError(f"{path} holds {sorted(archive.files)}; {NPZ_LAYOUT}")
    train = _npz_split(path, archive, suffix)
    test = _npz_split(path, archive, "_test") if "x_test" in archive else None
    if train.labels is None:
        return RawSplits(train, test, ())
    numbers = numbered_classes(train.labels)
    given = tuple(str(name) for name in archive["class_names"]) if "class_names" in archive else ()
    names = given or (names if len(names) == len(numbers) else numbers)
    if len(names) < len(numbers):
        raise DataError(f"{path} has {len(numbers)} classes but {len(names)} class_names")
    return RawSplits(train, test, names)


def _npz_split(path: Path, archive: NpzFile, suffix: str) -> RawSplit:
    images = _npz_images(path, archive, f"x{suffix}")
    if f"y{suffix}" not in archive:
        return RawSplit(images, None)
    labels = archive[f"y{suffix}"]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise DataError(
            f"{path}: y{suffix} is {labels.dtype} of shape {labels.shape}; it should be "
            f"{len(images)} class numbers from 0"
        )
    return RawSplit(images, labels.astype(np.int64))


def _npz_images(path: Path, archive: NpzFile, key: str) -> ImageArray | ArrayFile:
    """The images under `key`: in memory, or in their file if they are large."""
    assert archive.zip is not None
    member = archive.zip.getinfo(f"{key}.npy")
    with archive.zip.open(member) as file:
        form = np.lib.format
        is_first = form.read_magic(file) == (1, 0)
        read_header = form.read_array_header_1_0 if is_first else form.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
        start = file.tell()
    size = math.prod(shape)
    if dtype != np.uint8 or len(shape) not in (3, 4) or size == 0:
        raise DataError(
            f"{path}: {key} is {dtype} of shape {shape}; it should be uint8 in "
            "0..255, [N, H, W] or [N, H, W, C]"
        )
    if len(shape) == 4 and not {shape[1], shape[3]} & {1, 3, 4}:
        raise DataError(f"{path}: {key} has shape {shape}; images need 1, 3 or 4 channels")
    if size <= source.MAX_BYTES_IN_MEMORY or is_fortran:
        return channels_first(archive[key])
    if member.compress_type == zipfile.ZIP_STORED:
        where, start = path, start + _member_offset(path, member)
    else:
        opened = archive.zip.open(member)
        where = unpacked(path, f"-{member.filename}", opened, start + size, start + size)
    return ArrayFile(where, start, shape[0], shape[1:])


def _member_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """The position of a member's content in its archive: after a header and two strings."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return member.header_offset + 30 + int(name) + int(extra)
