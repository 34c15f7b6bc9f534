"""The set of images that training, evaluation and reports read."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from sfumato.core.images import Labels, Shape, UInt8Images
from sfumato.data.order import Order
from sfumato.data.source import ImageArray, LabelArray
from sfumato.data.split import Hashes
from sfumato.data.stored_rows import Rows, open_rows

SplitName = Literal["train", "held-out"]


@dataclass(frozen=True)
class Form:
    """What a network has to know of a data set. `num_classes` is 0 when unlabelled."""

    image_shape: Shape
    num_classes: int


class Dataset:
    """Images, uint8 in 0..255, with their classes.

    Args:
        images: [N, C, H, W], in memory or memory-mapped. It may hold more than the set does.
        labels: the class of each image of the set, 0 to num_classes - 1; None when unlabelled.
        class_names: one a class; () when unlabelled.
        name: of the source.
        split: which part of it.
        hashes: SHA-256 of each image of the set; computed when None.
        rows: where in `images` the images of the set are; None when it is all of them.
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
        self._reader: Rows = open_rows(images)
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
        """0 when unlabelled."""
        return len(self.class_names)

    @cached_property
    def images(self) -> ImageArray:
        """All images [N, C, H, W]. For a part of a set this is a copy in memory: use `take`."""
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
        return Dataset(
            images=self._stored,
            labels=None if self.labels is None else self.labels[at],
            class_names=self.class_names,
            name=self.name,
            split=self.split,
            hashes=self.hashes[at],
            rows=at if self._rows is None else self._rows[at],
        )

    def relabelled(self, labels: LabelArray | None, class_names: tuple[str, ...]) -> "Dataset":
        """The same images with other classes."""
        return Dataset(
            self._stored, labels, class_names, self.name, self.split, self.hashes, self._rows
        )

    def take(self, indices: Int64[np.ndarray, " b"]) -> UInt8Images:
        """A fresh tensor [b, C, H, W] of the images at `indices`."""
        at = indices if self._rows is None else self._rows[indices]
        return torch.from_numpy(self._reader.read(at))

    def batches(
        self, size: int, seed: int, start: int = 0, which: slice | None = None
    ) -> Iterator[tuple[UInt8Images, Labels | None]]:
        """Batches without end; every epoch shows every image once, in its own order.

        Args:
            size: images in the global batch; the last of an epoch continues into the next.
            seed: the order is a function of (seed, epoch) alone.
            start: images already seen.
            which: the part of each global batch to return; None is all of it.
        """
        order = Order(len(self), seed)
        which = which or slice(0, size)
        position = start
        upcoming = order.at(position, size)[which]
        while True:
            current = upcoming
            position += size
            upcoming = order.at(position, size)[which]
            self._reader.expect(upcoming if self._rows is None else self._rows[upcoming])
            yield self.take(current), self._labels_at(current)

    def _labels_at(self, indices: Int64[np.ndarray, " b"]) -> Tensor | None:
        return None if self.labels is None else torch.from_numpy(self.labels[indices])


@dataclass(frozen=True)
class Splits:
    """The images to train on and those that training never sees."""

    train: Dataset
    held_out: Dataset


def image_hashes(images: ImageArray) -> Hashes:
    """SHA-256 of the pixels of each image."""
    digests = b"".join(hashlib.sha256(np.ascontiguousarray(i).data).digest() for i in images)
    return np.frombuffer(digests, np.uint8).reshape(len(images), 32)
