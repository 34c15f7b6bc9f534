"""Reading scattered rows of an image array, in memory or in a file larger than memory."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from sfumato.core.errors import DataError
from sfumato.data.source import ImageArray

MAPPED_BYTES = 2**30
"""Up to this size a file is read through its memory map, which all processes share. Above it,
by explicit reads: the pages of a map count as the process's own memory, and schedulers that limit
memory end processes for it."""


class Rows(ABC):
    """Random access to images."""

    @abstractmethod
    def read(self, rows: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b C H W"]:
        """A fresh array of the images at `rows`."""

    @abstractmethod
    def expect(self, rows: Int64[np.ndarray, " b"]) -> None:
        """Say which rows will be read next, so that the disk can begin."""


class ArrayRows(Rows):
    """Rows of an array in memory or of a memory map."""

    def __init__(self, images: ImageArray) -> None:
        self._images = images

    def read(self, rows: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b C H W"]:
        return np.asarray(self._images[rows])

    def expect(self, rows: Int64[np.ndarray, " b"]) -> None:
        pass


class FileRows(Rows):
    """Rows of a file too large for memory, read one by one, ahead of their use."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...]) -> None:
        self._offset = offset
        self._shape = shape
        self._row_bytes = int(np.prod(shape[1:]))
        self._file = path.open("rb", buffering=0)
        self._lock = Lock()  # a position and a read belong together
        _advise(self._file.fileno(), 0, 0, "POSIX_FADV_RANDOM")  # no readahead beyond a row

    def read(self, rows: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b C H W"]:
        images = np.empty((len(rows), *self._shape[1:]), np.uint8)
        flat = images.reshape(len(rows), self._row_bytes)
        with self._lock:
            for i in np.argsort(rows, kind="stable"):  # in the order of the file
                self._file.seek(self._offset + int(rows[i]) * self._row_bytes)
                if self._file.readinto(memoryview(flat[i])) != self._row_bytes:
                    raise DataError(f"{self._file.name} ends early; delete its folder and repack")
        return images

    def expect(self, rows: Int64[np.ndarray, " b"]) -> None:
        for row in np.sort(rows):
            start = self._offset + int(row) * self._row_bytes
            _advise(self._file.fileno(), start, self._row_bytes, "POSIX_FADV_WILLNEED")


def open_rows(images: ImageArray, mapped_bytes: int | None = None) -> Rows:
    """Choose how to read `images`: by explicit reads when it maps a large file.

    `mapped_bytes` is the largest map that is read as such; None is MAPPED_BYTES.
    """
    limit = MAPPED_BYTES if mapped_bytes is None else mapped_bytes
    is_whole_file = isinstance(images, np.memmap) and not isinstance(images.base, np.ndarray)
    if is_whole_file and images.nbytes > limit and images.flags.c_contiguous:
        mapped: Any = images  # jaxtyping's array type hides what a memory map adds
        return FileRows(Path(mapped.filename), mapped.offset, mapped.shape)
    return ArrayRows(images)


def _advise(descriptor: int, start: int, length: int, advice: str) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, length, getattr(os, advice))
