"""NumPy archives: `x` and `y`, or `x_train, y_train, x_test, y_test`."""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from sfumato.core.errors import DataError
from sfumato.core.files import cache_folder
from sfumato.data import source
from sfumato.data.archive import unpack_stream
from sfumato.data.cache import content_digest, make_folder, require_space
from sfumato.data.source import (
    ImageArray,
    Part,
    Parts,
    Source,
    StoredImages,
    channels_first,
    numbered_classes,
)

DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
LAYOUT = "it should hold x and, if labelled, y (or x_train, y_train, x_test, y_test)"


def npz_file(path: Path, class_names: tuple[str, ...] = ()) -> Source:
    """An .npz of uint8 images, [N, H, W], [N, H, W, C] or [N, C, H, W], and integer labels.

    Images that take more than `source.IN_MEMORY` bytes are read in place, or where the archive is
    compressed from an unpacked copy in the cache.
    An array `class_names` of strings names the classes; else `class_names`, if there are as many.
    """

    def read() -> Parts:
        try:
            with np.load(path, allow_pickle=False) as archive:
                return _parts(path, archive, class_names)
        except DAMAGE as error:
            raise DataError(f"cannot read {path}: {error}; {LAYOUT}") from None

    return Source(name=path.stem, files=(path,), root=path.parent, read=read)


def _parts(path: Path, archive: NpzFile, names: tuple[str, ...]) -> Parts:
    suffix = "_train" if "x_train" in archive else ""
    if f"x{suffix}" not in archive:
        raise DataError(f"{path} holds {sorted(archive.files)}; {LAYOUT}")
    train = _part(path, archive, suffix)
    test = _part(path, archive, "_test") if "x_test" in archive else None
    if train.labels is None:
        return Parts(train, test, ())
    numbers = numbered_classes(train.labels)
    given = tuple(str(name) for name in archive["class_names"]) if "class_names" in archive else ()
    names = given or (names if len(names) == len(numbers) else numbers)
    if len(names) < len(numbers):
        raise DataError(f"{path} has {len(numbers)} classes but {len(names)} class_names")
    return Parts(train, test, names)


def _part(path: Path, archive: NpzFile, suffix: str) -> Part:
    images = _images(path, archive, f"x{suffix}")
    if f"y{suffix}" not in archive:
        return Part(images, None)
    labels = archive[f"y{suffix}"]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise DataError(
            f"{path}: y{suffix} is {labels.dtype} of shape {labels.shape}; it should be "
            f"{len(images)} class numbers from 0"
        )
    return Part(images, labels.astype(np.int64))


def _images(path: Path, archive: NpzFile, key: str) -> ImageArray | StoredImages:
    """The images under `key`: read, or where there are many left in their file."""
    assert archive.zip is not None
    member = archive.zip.getinfo(f"{key}.npy")
    with archive.zip.open(member) as file:
        form = np.lib.format
        is_first = form.read_magic(file) == (1, 0)
        read_header = form.read_array_header_1_0 if is_first else form.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
        start = file.tell()
    size = int(np.prod(shape, dtype=object))
    if dtype != np.uint8 or len(shape) not in (3, 4) or size == 0:
        raise DataError(
            f"{path}: {key} is {dtype} of shape {shape}; it should be uint8 in "
            "0..255, [N, H, W] or [N, H, W, C]"
        )
    if len(shape) == 4 and not {shape[1], shape[3]} & {1, 3, 4}:
        raise DataError(f"{path}: {key} has shape {shape}; images need 1, 3 or 4 channels")
    if size <= source.IN_MEMORY or is_fortran:
        return channels_first(archive[key])
    if member.compress_type == zipfile.ZIP_STORED:
        where, start = path, start + _content_offset(path, member)
    else:
        where = _unpacked(path, archive.zip, member, start + size)
    return StoredImages(where, start, shape[0], shape[1:])


def _content_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the content of a member begins in its archive: after a header and two strings."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return member.header_offset + 30 + int(name) + int(extra)


def _unpacked(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> Path:
    """A copy of a compressed member of `size` bytes in the cache."""
    folder = make_folder(cache_folder() / "unpacked")
    copy = folder / f"{content_digest([path], path.parent)[:16]}-{member.filename}"
    if not copy.is_file():
        require_space(folder, size)
        with archive.open(member) as stream:
            unpack_stream(stream, copy, size, path)
    return copy
