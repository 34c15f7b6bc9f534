"""The result of every kind of source: images of one or two splits before their preparation."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from sfumato.core.errors import DataError

ImageArray = UInt8[np.ndarray, "N C H W"]
LabelArray = Int64[np.ndarray, " N"]
Hashes = UInt8[np.ndarray, "N 32"]
"""SHA-256 of the pixels of each image."""
MAX_BYTES_IN_MEMORY = 2**28
"""Arrays up to this size are read whole; larger ones stay in their file."""


@dataclass(frozen=True)
class Records(ABC):
    """Encoded images (JPEG, PNG, ...) with random access; packing processes get them pickled.

    Args:
        names: of the images, for messages.
    """

    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The name of the image in messages."""
        return self.names[index]

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded file of the image. Raises OSError or ValueError if it is unreadable."""


@dataclass(frozen=True)
class JoinedRecords(Records):
    """Several sets of records, one after another."""

    parts: tuple[Records, ...]

    def read(self, index: int) -> bytes:
        for part in self.parts:
            if index < len(part):
                return part.read(index)
            index -= len(part)
        raise IndexError(index)


def joined(parts: Sequence[Records]) -> Records:
    """One set of records."""
    names = tuple(name for part in parts for name in part.names)
    return parts[0] if len(parts) == 1 else JoinedRecords(names, tuple(parts))


@dataclass(frozen=True)
class ArrayFile:
    """uint8 images one after another in a file; packing processes get them pickled.

    Args:
        path, offset: the position of the first image, in bytes.
        count: number of images.
        shape: of a stored image: [H, W], [H, W, C] or [C, H, W].
    """

    path: Path
    offset: int
    count: int
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """The name of the image in messages."""
        return f"image {index}"

    def read(self, start: int, stop: int) -> ImageArray:
        """Images `start` to `stop` - 1.

        Raises:
            DataError: the file ends before them.
        """
        size = int(np.prod(self.shape))
        with self.path.open("rb") as file:
            file.seek(self.offset + start * size)
            content = file.read((stop - start) * size)
        if len(content) < (stop - start) * size:
            raise DataError(f"{self.path} ends before image {stop - 1}; fetch it again")
        return channels_first(np.frombuffer(content, np.uint8).reshape(-1, *self.shape))


def channels_first(images: np.ndarray) -> ImageArray:
    """Images [N, H, W], [N, H, W, C] or [N, C, H, W] as [N, C, H, W].

    Raises:
        ValueError: not 1, 3 or 4 channels.
    """
    if images.ndim == 3:
        return images[:, None]
    if images.shape[3] in (1, 3, 4):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.shape[1] in (1, 3, 4):
        return images
    raise ValueError(f"has shape {images.shape}; images need 1, 3 or 4 channels")


@dataclass(frozen=True)
class RawSplit:
    """One split of a source: decoded or encoded images, and their classes (None: unlabelled)."""

    images: ImageArray | ArrayFile | Records
    labels: LabelArray | None

    def __post_init__(self) -> None:
        assert self.labels is None or len(self.labels) == len(self.images)


@dataclass(frozen=True)
class RawSplits:
    """The splits of a source; `test` is None without a test split.

    `class_names` is () if unlabelled.
    """

    train: RawSplit
    test: RawSplit | None
    class_names: tuple[str, ...]

    def present(self) -> dict[str, RawSplit]:
        """The splits that exist: "train" and perhaps "test"."""
        return {"train": self.train} | ({"test": self.test} if self.test is not None else {})


@dataclass(frozen=True)
class Source:
    """A set of images before reading it.

    Args:
        name: short, fit for a file name.
        files: all files of its content; () for a set inside a dependency.
        root: names in digests are relative to this folder, so that a set may move.
        read: opens the set. Raises DataError.
        held_out: share of the images to hold out without a test split.
        is_packed: whether `root` holds the packed form.
    """

    name: str
    files: tuple[Path, ...]
    root: Path
    read: Callable[[], RawSplits]
    held_out: float = 0.2
    is_packed: bool = False


def numbered_classes(labels: LabelArray) -> tuple[str, ...]:
    """Class names for a source that only numbers its classes: "0", "1", ..."""
    return tuple(str(number) for number in range(int(labels.max()) + 1))


def image_hashes(images: ImageArray) -> Hashes:
    """SHA-256 of the pixels of each image."""
    digests = b"".join(hashlib.sha256(np.ascontiguousarray(i).data).digest() for i in images)
    return np.frombuffer(digests, np.uint8).reshape(len(images), 32)


def first_of_each(hashes: Hashes) -> Bool[np.ndarray, " N"]:
    """True for the first of every group of equal images."""
    mask = np.zeros(len(hashes), bool)
    mask[np.unique(as_items(hashes), return_index=True)[1]] = True
    return mask


def as_items(hashes: Hashes) -> np.ndarray:
    """One comparable item per image."""
    return np.ascontiguousarray(hashes).view("V32").ravel() if len(hashes) else np.empty(0, "V32")
