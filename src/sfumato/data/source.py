"""What every kind of source gives: images of one or two splits, not yet in their final form."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from sfumato.core.errors import DataError

ImageArray = UInt8[np.ndarray, "N C H W"]
LabelArray = Int64[np.ndarray, " N"]
IN_MEMORY = 2**28
"""Arrays of up to so many bytes are simply read; larger ones stay in their file."""


class Records(ABC):
    """Encoded images (JPEG, PNG, ...) with random access; pickled to the packing processes."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What messages call the image."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The file of the image. Raises OSError or ValueError when it cannot be read."""


@dataclass(frozen=True)
class JoinedRecords(Records):
    """Several sets of records, one after another."""

    parts: tuple[Records, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def name(self, index: int) -> str:
        part, row = self._at(index)
        return part.name(row)

    def read(self, index: int) -> bytes:
        part, row = self._at(index)
        return part.read(row)

    def _at(self, index: int) -> tuple[Records, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)


@dataclass(frozen=True)
class StoredImages:
    """uint8 images one after another in a file, read a range at a time.

    Pickled to the packing processes.

    Args:
        path, offset: where the first image begins.
        count: of images.
        shape: of one image as it is stored: [H, W], [H, W, C] or [C, H, W].
    """

    path: Path
    offset: int
    count: int
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """What messages call the image."""
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
    """[N, H, W], [N, H, W, C] or [N, C, H, W] as the last.

    Raises:
        ValueError: neither 1, 3 nor 4 channels.
    """
    if images.ndim == 3:
        return images[:, None]
    if images.shape[3] in (1, 3, 4):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.shape[1] in (1, 3, 4):
        return images
    raise ValueError(f"has shape {images.shape}; images need 1, 3 or 4 channels")


@dataclass(frozen=True)
class Part:
    """One split: images, decoded (in memory or in a file) or not; and their classes (or None)."""

    images: ImageArray | StoredImages | Records
    labels: LabelArray | None

    def __post_init__(self) -> None:
        assert self.labels is None or len(self.labels) == len(self.images)


@dataclass(frozen=True)
class Parts:
    """Both splits as the source has them; `test` is None when it does not divide its images.

    `class_names` are () when unlabelled.
    """

    train: Part
    test: Part | None
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A set of images that was found but not read.

    Args:
        name: short, fit for a file name.
        files: everything its content depends on; () for a set embedded in a dependency.
        root: the folder that `files` are named from, so that the identity of the content does
            not depend on where it lies.
        read: opens it. Raises DataError.
        held_out: share of the images to hold out when there is no test split.
        is_packed: it is in packed form already, in `root`.
    """

    name: str
    files: tuple[Path, ...]
    root: Path
    read: Callable[[], Parts]
    held_out: float = 0.2
    is_packed: bool = False


def numbered_classes(labels: LabelArray) -> tuple[str, ...]:
    """Names for classes that have none: their numbers."""
    return tuple(str(number) for number in range(int(labels.max()) + 1))
