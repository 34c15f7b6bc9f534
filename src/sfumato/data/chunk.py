"""Preparing one run of consecutive images: what a packing process does.

Imported by processes that should start fast: nothing here imports torch.
"""

import hashlib
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sfumato.data.decode import (
    ORIENTATION,
    Decoded,
    UnusableImageError,
    decode,
    is_grey,
    open_image,
)
from sfumato.data.prepare import Preparation
from sfumato.data.source import Records, StoredImages

TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


@dataclass
class Header:
    """What the headers of some images say: how many have each (height, width), and how many
    are coloured."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    num_coloured: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a packing process answers."""
        return {
            "sizes": [[*size, n] for size, n in self.sizes.items()],
            "coloured": self.num_coloured,
        }

    @staticmethod
    def from_json(found: dict[str, Any]) -> "Header":
        """What `to_json` made plain."""
        sizes = Counter({(height, width): n for height, width, n in found["sizes"]})
        return Header(sizes, found["coloured"])


@dataclass
class Chunk:
    """The report on prepared images. Rows are numbered from the start of the split.

    Args:
        dropped: row -> (kind, reason) of images that are not in the set.
        notes: kind -> rows of images that were odd.
        hashes: SHA-256 of each prepared image, in hexadecimal; zeros for dropped ones.
    """

    dropped: dict[int, tuple[str, str]] = field(default_factory=dict)
    notes: dict[str, list[int]] = field(default_factory=dict)
    hashes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a packing process answers and as a finished chunk is recorded."""
        return asdict(self)

    @staticmethod
    def from_json(found: dict[str, Any]) -> "Chunk":
        """What `to_json` made plain."""
        dropped = {int(row): (kind, reason) for row, (kind, reason) in found["dropped"].items()}
        return Chunk(dropped, found["notes"], found["hashes"])


@dataclass(frozen=True)
class ScanJob:
    """Reads the headers of a range of images."""

    records: Records

    answer = Header

    def __call__(self, start: int, stop: int) -> Header:
        return scan(self.records, start, stop)


@dataclass(frozen=True)
class PrepareJob:
    """Prepares a range of images and writes them to their rows of a file.

    Args:
        path: a file in which row 0 begins at `offset` bytes.
    """

    records: Records
    preparation: Preparation
    path: Path
    offset: int
    answer = Chunk

    def __call__(self, start: int, stop: int) -> Chunk:
        images, chunk = prepare(self.records, start, stop, self.preparation)
        _write(self.path, self.offset, start, images)
        return chunk


@dataclass(frozen=True)
class PrepareStoredJob:
    """The same for images that are decoded already."""

    images: StoredImages
    preparation: Preparation
    path: Path
    offset: int
    answer = Chunk

    def __call__(self, start: int, stop: int) -> Chunk:
        images = prepare_array(self.images.read(start, stop), self.preparation)
        _write(self.path, self.offset, start, np.ascontiguousarray(images))
        return Chunk(hashes=[hashlib.sha256(image.tobytes()).hexdigest() for image in images])


def _write(path: Path, offset: int, start: int, images: UInt8[np.ndarray, "n C H W"]) -> None:
    """Have prepared images safely in their rows, from row `start`."""
    with path.open("rb+") as file:
        file.seek(offset + start * images[0].nbytes)
        file.write(images.data)
        file.flush()
        os.fsync(file.fileno())


def scan(records: Records, start: int, stop: int) -> Header:
    """Read the headers of images start..stop-1; unusable ones are not counted."""
    header = Header()
    for index in range(start, stop):
        try:
            image = open_image(records.read(index))
            turned = image.getexif().get(ORIENTATION) in TURNED
        except (UnusableImageError, OSError, ValueError, SyntaxError):
            continue
        height, width = (image.width, image.height) if turned else (image.height, image.width)
        header.sizes[height, width] += 1
        header.num_coloured += not is_grey(image)
    return header


def prepare(
    records: Records, start: int, stop: int, preparation: Preparation
) -> tuple[UInt8[np.ndarray, "n C H W"], Chunk]:
    """Decode and prepare images start..stop-1; dropped ones are black."""
    images = np.zeros((stop - start, *preparation.shape), np.uint8)
    chunk = Chunk()
    for row in range(start, stop):
        try:
            decoded = decode(_read(records, row))
            _judge_size(decoded, preparation)
            images[row - start] = preparation(decoded.image)
        except UnusableImageError as error:
            chunk.dropped[row] = (error.kind, str(error))
            chunk.hashes.append("0" * 64)
            continue
        if preparation.channels > 1 and decoded.image.mode == "L":
            decoded.notes.add("grey")
        for note in decoded.notes:
            chunk.notes.setdefault(note, []).append(row)
        chunk.hashes.append(hashlib.sha256(images[row - start].data).hexdigest())
    return images, chunk


def _read(records: Records, row: int) -> bytes:
    try:
        return records.read(row)
    except (OSError, ValueError) as error:
        raise UnusableImageError("unreadable", str(error)) from None


def _judge_size(decoded: Decoded, preparation: Preparation) -> None:
    """Note images that have to be enlarged. Raises UnusableImageError for tiny ones."""
    width, height = decoded.image.size
    if min(width, height) < min(preparation.width, preparation.height) / 4:
        raise UnusableImageError("tiny", f"{width}x{height} pixels")
    if preparation.fit != "pad" and (width < preparation.width or height < preparation.height):
        decoded.notes.add("enlarged")


def prepare_array(
    images: UInt8[np.ndarray, "N c h w"], preparation: Preparation
) -> UInt8[np.ndarray, "N C H W"]:
    """Prepare images that are already decoded; as they are when nothing changes."""
    if images.shape[1:] == preparation.shape:
        return images
    prepared = np.empty((len(images), *preparation.shape), np.uint8)
    for row, image in enumerate(images):
        pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        prepared[row] = preparation(Image.fromarray(pixels))
    return prepared
