"""The packed form of one split: a folder with its images in the form for training.

images.npy   uint8 [N, C, H, W], memory-mapped
labels.npy   int64 [N], if labelled
hashes.npy   uint8 [N, 32], SHA-256 of each image
set.json     name, class names, preparation, summary of oddities
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.core.errors import DataError
from sfumato.core.files import atomic_path, write_json
from sfumato.data.decode import Preparation
from sfumato.data.source import Hashes, ImageArray, LabelArray

PACKED_FORMAT = 1
DESCRIPTION = "set.json"
IMAGES_FILE = "images.npy"


EXAMPLES = 5
DROPPED = {
    "unreadable": "left out: could not be decoded",
    "bomb": "left out: too many pixels",
    "tiny": "left out: a side below a quarter of the resolution",
    "crashed": "left out: the decoder crashed",
}
HANDLED = {
    "enlarged": "smaller than the resolution: enlarged",
    "grey": "grey among coloured images: converted",
    "cmyk": "CMYK: converted to RGB",
    "16-bit": "16 bits per channel: scaled to 8",
    "palette": "with a palette: converted to RGB",
    "transparent": "with transparency: blended with white unless channels is 4",
    "rotated": "turned upright by their EXIF orientation",
    "animated": "several frames: took the first",
    "duplicate": "equal to an earlier image of the set",
}


@dataclass
class Finding:
    """The number of images with an oddity, and the first few names."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(name)


@dataclass
class Summary:
    """The oddities of the images of a set: findings by kind, a key of DROPPED or HANDLED."""

    findings: dict[str, Finding] = field(default_factory=dict)

    def add(self, kind: str, names: Iterable[str]) -> None:
        """Count images of a kind."""
        for name in names:
            self.findings.setdefault(kind, Finding()).add(name)

    def lines(self) -> list[str]:
        """One line per kind; dropped images come first."""
        return [
            f"{finding.count} {text} ({', '.join(finding.examples)}"
            f"{', ...' if finding.count > len(finding.examples) else ''})"
            for kind, text in (DROPPED | HANDLED).items()
            if (finding := self.findings.get(kind))
        ]


@dataclass(frozen=True)
class PackedSplit:
    """One packed split, open for reading."""

    images: ImageArray
    labels: LabelArray | None
    hashes: Hashes
    class_names: tuple[str, ...]
    preparation: Preparation
    summary: Summary


@dataclass(frozen=True)
class PackedSplits:
    """The packed splits of a source."""

    train: PackedSplit
    test: PackedSplit | None
    folder: Path | None
    """None: in memory."""

    def oddities(self) -> list[str]:
        """One line per split and kind of odd image."""
        splits = {"train": self.train} | ({"test": self.test} if self.test else {})
        return [f"{name}: {line}" for name, s in splits.items() for line in s.summary.lines()]


def write_description(folder: Path, name: str, packed: PackedSplit) -> None:
    """Write everything but the images: the folder is complete afterwards."""
    _save(folder / "hashes.npy", packed.hashes)
    if packed.labels is not None:
        _save(folder / "labels.npy", packed.labels)
    description = {
        "format": PACKED_FORMAT,
        "name": name,
        "shape": list(packed.images.shape),
        "class_names": list(packed.class_names),
        "preparation": dataclasses.asdict(packed.preparation),
        "summary": dataclasses.asdict(packed.summary)["findings"],
    }
    write_json(folder / DESCRIPTION, description)


def write_packed(folder: Path, name: str, packed: PackedSplit) -> None:
    """Write a packed split into `folder`; make the folder if necessary."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / IMAGES_FILE, packed.images)
    write_description(folder, name, packed)


def is_packed(folder: Path) -> bool:
    """Whether `folder` holds a packed split."""
    return (folder / DESCRIPTION).is_file()


def read_packed(folder: Path) -> PackedSplit:
    """Open a packed split; its images stay on disk.

    Raises:
        DataError: the folder is damaged, or of another version of the format.
    """
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text())
        if description["format"] != PACKED_FORMAT:
            raise DataError(
                f"{folder} has packed format {description['format']}, this version reads "
                f"{PACKED_FORMAT}; delete the folder and pack the set again"
            )
        images = np.load(folder / IMAGES_FILE, mmap_mode="r", allow_pickle=False)
        class_names = tuple(description["class_names"])
        labels = np.load(folder / "labels.npy", allow_pickle=False) if class_names else None
        hashes = np.load(folder / "hashes.npy", allow_pickle=False)
        if list(images.shape) != description["shape"] or len(hashes) != len(images):
            raise ValueError(f"images {images.shape} are not {description['shape']}")
        preparation = Preparation(**description["preparation"])
        summary = Summary({k: Finding(**found) for k, found in description["summary"].items()})
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the packed set {folder} is damaged ({error}); delete the folder and pack it again"
        ) from None
    return PackedSplit(images, labels, hashes, class_names, preparation, summary)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
