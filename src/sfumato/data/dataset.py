"""The set of images for training, evaluation and reports."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sfumato.core.errors import DataError
from sfumato.core.images import Labels, Shape, UInt8Images
from sfumato.core.noise import derive_seed
from sfumato.data.source import ImageArray, LabelArray, image_hashes

SplitName = Literal["train", "held-out"]


@dataclass(frozen=True)
class Form:
    """What a network must know about a data set.

    Args:
        image_shape: [C, H, W]; H and W are 0 if the sizes differ.
        num_classes: 0 if unlabelled.
    """

    image_shape: Shape
    num_classes: int

    def __str__(self) -> str:
        """A text such as "grey 28x28, 10 classes"."""
        channels, height, width = self.image_shape
        colour = {1: "grey", 3: "RGB", 4: "RGBA"}[channels]
        size = f" {height}x{width}" if height else ", all sizes"
        classes = f"{self.num_classes} classes" if self.num_classes else "unlabelled"
        return f"{colour}{size}, {classes}"


def permutation(count: int, seed: int, epoch: int) -> Int64[np.ndarray, " count"]:
    """A pseudo-random order of 0..count-1: the indices sorted by their SplitMix64.

    Independent of any library's shuffle, so that a run resumes exactly with other versions.

    Source: Steele et al. 2014 (Fast Splittable Pseudorandom Number Generators).
    """
    key = np.uint64(derive_seed("order", seed, epoch))
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(x ^ (x >> np.uint64(31)), kind="stable").astype(np.int64, copy=False)


class EpochOrder:
    """The indices at any position of an endless sequence of epochs."""

    def __init__(self, count: int, seed: int) -> None:
        assert count > 0
        self._count = count
        self._seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def at(self, position: int, size: int) -> Int64[np.ndarray, " size"]:
        """The indices at positions `position` to `position + size - 1`, across epochs."""
        parts = []
        while size > 0:
            epoch, offset = divmod(position, self._count)
            part = self._of(epoch)[offset : offset + size]
            parts.append(part)
            position, size = position + len(part), size - len(part)
        return np.concatenate(parts)

    def _of(self, epoch: int) -> Int64[np.ndarray, " count"]:
        if epoch != self._epoch:
            self._permutation = permutation(self._count, self._seed, epoch)
            self._epoch = epoch
        return self._permutation


MAPPED_BYTES = 2**30
"""Larger files are read explicitly, not through a memory map: the pages of a map count as memory
of the process, and a scheduler that limits memory would kill it."""


class FileRows:
    """Images [C, H, W] one after another in a file too large for memory."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...]) -> None:
        self._offset = offset
        self._shape = shape
        self._row_bytes = int(np.prod(shape[1:]))
        self._file = path.open("rb", buffering=0)
        self._lock = Lock()  # seek and read are one step
        _advise(self._file.fileno(), 0, 0, "POSIX_FADV_RANDOM")  # no readahead beyond a row

    def read(self, rows: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b C H W"]:
        """A fresh array of the images at `rows`. Raises DataError if the file ends early."""
        images = np.empty((len(rows), *self._shape[1:]), np.uint8)
        flat = images.reshape(len(rows), self._row_bytes)
        with self._lock:
            for i in np.argsort(rows, kind="stable"):  # in the order of the file
                self._file.seek(self._offset + int(rows[i]) * self._row_bytes)
                if self._file.readinto(memoryview(flat[i])) != self._row_bytes:
                    raise DataError(f"{self._file.name} ends early; delete its folder and repack")
        return images

    def expect(self, rows: Int64[np.ndarray, " b"]) -> None:
        """Start to read ahead the next `rows` from disk."""
        for row in np.sort(rows):
            start = self._offset + int(row) * self._row_bytes
            _advise(self._file.fileno(), start, self._row_bytes, "POSIX_FADV_WILLNEED")


def large_file(images: ImageArray) -> FileRows | None:
    """Explicit reads of `images` if it maps a whole large file, else None."""
    is_whole_file = isinstance(images, np.memmap) and not isinstance(images.base, np.ndarray)
    if is_whole_file and images.nbytes > MAPPED_BYTES and images.flags.c_contiguous:
        mapped: Any = images  # jaxtyping's array type hides what a memory map adds
        return FileRows(Path(mapped.filename), mapped.offset, mapped.shape)
    return None


def _advise(descriptor: int, start: int, length: int, advice: str) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, length, getattr(os, advice))


class Dataset:
    """Images, uint8 in 0..255, with their classes.

    Args:
        images: [N, C, H, W], in memory or memory-mapped; may hold more images than the set.
        labels: the class of each image of the set, 0 to num_classes - 1; None: unlabelled.
        class_names: one per class; () if unlabelled.
        name: of the source.
        split: of the source.
        hashes: SHA-256 of each image of the set; None computes it.
        rows: the set's rows of `images`; None is all of them.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "stored C H W"],
        labels: Int64[np.ndarray, " k"] | None,
        class_names: tuple[str, ...],
        name: str,
        split: SplitName,
        hashes: UInt8[np.ndarray, "k 32"] | None = None,
        rows: Int64[np.ndarray, " k"] | None = None,
    ) -> None:
        self._stored = images
        self._rows = rows
        self._file = large_file(images)
        self.labels = labels
        self.class_names = class_names
        self.name = name
        self.split = split
        self.hashes = image_hashes(self.images) if hashes is None else hashes
        assert len(self.hashes) == len(self)
        assert labels is None or len(labels) == len(self)
        assert (labels is None) == (not class_names)

    def __len__(self) -> int:
        return len(self._stored if self._rows is None else self._rows)

    def __repr__(self) -> str:
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        return f"<Dataset {self.name} {self.split}: {len(self)} of {self.image_shape}{classes}>"

    @property
    def image_shape(self) -> Shape:
        """Channels, height, width."""
        channels, height, width = self._stored.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """0 if unlabelled."""
        return len(self.class_names)

    @cached_property
    def images(self) -> ImageArray:
        """All images [N, C, H, W]; a copy in memory for a part of a set: `take` needs less."""
        return self._stored if self._rows is None else self._stored[self._rows]

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the images in their order, the labels and class names."""
        digest = hashlib.sha256(repr((self.image_shape, self.class_names)).encode())
        digest.update(self.hashes.tobytes())
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def subset(self, indices: Sequence[int] | Int64[np.ndarray, " k"]) -> "Dataset":
        """The images at `indices`, in that order, without copying them."""
        at = np.asarray(indices, dtype=np.int64)
        labels = None if self.labels is None else self.labels[at]
        rows = at if self._rows is None else self._rows[at]
        names, hashes = self.class_names, self.hashes[at]
        return Dataset(self._stored, labels, names, self.name, self.split, hashes, rows)

    def relabelled(self, labels: LabelArray | None, class_names: tuple[str, ...]) -> "Dataset":
        """The same images with other classes."""
        return Dataset(
            self._stored, labels, class_names, self.name, self.split, self.hashes, self._rows
        )

    def take(self, indices: Int64[np.ndarray, " b"]) -> UInt8Images:
        """A fresh tensor [b, C, H, W] of the images at `indices`."""
        at = indices if self._rows is None else self._rows[indices]
        return torch.from_numpy(self._file.read(at) if self._file else self._stored[at])

    def batches(
        self, size: int, seed: int, start: int = 0, which: slice | None = None
    ) -> Iterator[tuple[UInt8Images, Labels | None]]:
        """Endless batches; every epoch shows every image once, in its own order.

        Args:
            size: images per global batch; the last batch of an epoch continues into the next.
            seed: the order depends on (seed, epoch) only.
            start: number of images already seen.
            which: the part of each global batch to return; None is all of it.
        """
        order = EpochOrder(len(self), seed)
        which = which or slice(0, size)
        position = start
        upcoming = order.at(position, size)[which]
        while True:
            current = upcoming
            position += size
            upcoming = order.at(position, size)[which]
            if self._file:
                self._file.expect(upcoming if self._rows is None else self._rows[upcoming])
            yield self.take(current), self._labels_at(current)

    def _labels_at(self, indices: Int64[np.ndarray, " b"]) -> Tensor | None:
        return None if self.labels is None else torch.from_numpy(self.labels[indices])


@dataclass(frozen=True)
class Splits:
    """The images for training, and those that training never sees."""

    train: Dataset
    held_out: Dataset
