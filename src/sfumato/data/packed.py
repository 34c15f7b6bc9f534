"""The packed form of one split: a folder with the images as they are read in training.

images.npy   uint8 [N, C, H, W], memory-mapped
labels.npy   int64 [N], when labelled
hashes.npy   uint8 [N, 32], SHA-256 of each image
set.json     name, class names, preparation, summary of oddities
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.core.errors import DataError
from sfumato.core.files import atomic_path, write_json
from sfumato.data.prepare import Preparation
from sfumato.data.source import ImageArray, LabelArray
from sfumato.data.split import Hashes
from sfumato.data.summary import Summary

FORMAT = 1
DESCRIPTION = "set.json"
IMAGES = "images.npy"


@dataclass(frozen=True)
class Packed:
    """One packed split, open for reading."""

    images: ImageArray
    labels: LabelArray | None
    hashes: Hashes
    class_names: tuple[str, ...]
    preparation: Preparation
    summary: Summary


def describe(folder: Path, name: str, packed: Packed) -> None:
    """Write everything but the images: the folder is complete afterwards."""
    _save(folder / "hashes.npy", packed.hashes)
    if packed.labels is not None:
        _save(folder / "labels.npy", packed.labels)
    description = {
        "format": FORMAT,
        "name": name,
        "shape": list(packed.images.shape),
        "class_names": list(packed.class_names),
        "preparation": dataclasses.asdict(packed.preparation),
        "summary": packed.summary.to_json(),
    }
    write_json(folder / DESCRIPTION, description)


def write_packed(folder: Path, name: str, packed: Packed) -> None:
    """Write a packed split into `folder`, which is made if necessary."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / IMAGES, packed.images)
    describe(folder, name, packed)


def is_packed(folder: Path) -> bool:
    """Whether `folder` holds a packed split."""
    return (folder / DESCRIPTION).is_file()


def read_packed(folder: Path) -> Packed:
    """Open a packed split; its images stay on disk.

    Raises:
        DataError: damaged, or of another version of the format.
    """
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text())
        if description["format"] != FORMAT:
            raise DataError(
                f"{folder} has packed format {description['format']}, this version reads "
                f"{FORMAT}; delete the folder and pack the set again"
            )
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        class_names = tuple(description["class_names"])
        labels = np.load(folder / "labels.npy", allow_pickle=False) if class_names else None
        hashes = np.load(folder / "hashes.npy", allow_pickle=False)
        if list(images.shape) != description["shape"] or len(hashes) != len(images):
            raise ValueError(f"images {images.shape} are not {description['shape']}")
        preparation = Preparation(**description["preparation"])
        summary = Summary.from_json(description["summary"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the packed set {folder} is damaged ({error}); delete the folder and pack it again"
        ) from None
    return Packed(images, labels, hashes, class_names, preparation, summary)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
