"""Sources of images that can be scored: an array, stored images, a model that generates them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64

from sfumato.core.config import override, parse
from sfumato.core.console import progress_bar
from sfumato.core.generative_model import GenerativeModel
from sfumato.core.images import Labels, Shape, UInt8Images
from sfumato.core.noise import generator
from sfumato.data.catalogue import CATALOGUE, load, load_whole
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Dataset, Splits
from sfumato.speed.plan import Plan
from sfumato.speed.sampling import sample_batches

SPLITS = ("train", "held-out")
SAMPLES = 5_000
"""Images that a model generates if no number is given."""

At = Int64[np.ndarray, " k"]
"""Positions of images."""
Part = tuple[Dataset, Int64[np.ndarray, " _"]]
"""A data set and which of its images."""


@runtime_checkable
class ImageSource(Protocol):
    """A source of images."""

    @property
    def name(self) -> str:
        """For people and the protocol."""
        ...

    @property
    def image_shape(self) -> Shape:
        """Channels, height, width."""
        ...

    @property
    def count(self) -> int | None:
        """The number of images; None: unbounded."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all images; () if their classes are unknown."""
        ...

    @property
    def digest(self) -> str | None:
        """Of the content; None for images that are not stored."""
        ...

    def labels(self, at: At) -> Labels | None:
        """The classes of the images at positions `at`; None if unknown."""
        ...

    def batches(self, at: At, size: int) -> Iterator[UInt8Images]:
        """The images at positions `at`, about `size` at a time."""
        ...


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory.

    Args:
        images: [N, C, H, W] uint8.
        classes: what each was generated for; None for an unconditional model.
        class_names: of these classes.
        name: for people and the protocol.
    """

    images: UInt8Images
    classes: Labels | None = None
    class_names: tuple[str, ...] = ()
    name: str = "array"
    digest: str | None = None

    @property
    def image_shape(self) -> Shape:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.images)

    def labels(self, at: At) -> Labels | None:
        """The classes of the images at positions `at`; None if unknown."""
        return None if self.classes is None else self.classes.cpu()[torch.from_numpy(at)]

    def batches(self, at: At, size: int) -> Iterator[UInt8Images]:
        """The images at positions `at`, `size` at a time."""
        for rows in torch.split(torch.from_numpy(at), size):
            yield self.images[rows]


@dataclass(frozen=True)
class StoredImages:
    """A folder, a file or a data set.

    Args:
        name: for people and the protocol.
        parts: the images, one set after another.
        other: the other split of the same source: more images of the same distribution.
    """

    name: str
    parts: tuple[Dataset, ...]
    other: Dataset | None = None

    @property
    def count(self) -> int:
        """The number of images."""
        return sum(len(part) for part in self.parts)

    @property
    def image_shape(self) -> Shape:
        """Channels, height, width."""
        return self.parts[0].image_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all images; () if their classes are unknown."""
        first, *others = (part.class_names for part in self.parts)
        return first if all(names == first for names in others) else ()

    @property
    def digest(self) -> str:
        """Of the content."""
        return " ".join(part.digest[:16] for part in self.parts)

    @property
    def splits(self) -> Splits | None:
        """The split these images are and the other one; None for images that are no split."""
        if self.other is None:
            return None
        (part,) = self.parts
        return Splits(part, self.other) if part.split == "train" else Splits(self.other, part)

    @property
    def has_teacher(self) -> bool:
        """Whether a classifier can be learned from the other split: these are held out."""
        return self.other is not None and bool(self.class_names) and self.parts[0].split != "train"

    def labels(self, at: At) -> Labels | None:
        """The classes of the images at positions `at`, in the order of `rows`."""
        if not self.class_names:
            return None
        return torch.cat([torch.from_numpy(part.labels)[rows] for part, rows in self.rows(at)])

    def rows(self, at: At) -> list[Part]:
        """The images at positions `at` (in their order) of all parts together."""
        found, start = [], 0
        for part in self.parts:
            inside = np.sort(at[(at >= start) & (at < start + len(part))])
            if len(inside):
                found.append((part, inside - start))
            start += len(part)
        return found

    def batches(self, at: At, size: int) -> Iterator[UInt8Images]:
        """The images at positions `at`, in the order of `rows`, at most `size` at a time."""
        return batches_of(self.rows(at), size)


@dataclass(frozen=True)
class GeneratedImages:
    """What a model samples: image i from seed `first_seed` + i.

    Args:
        name: for people and the protocol.
        model: samples.
        plan: how it computes.
        image_shape: channels, height, width.
        class_names: of a conditional model; else ().
        provenance: how images of some seeds are drawn, for the protocol.
        training: loads the data the model was trained on; raises SfumatoError.
        classes: the classes to sample, one after another and again; None: all in equal numbers.
        first_seed: of image 0.
    """

    name: str
    model: GenerativeModel
    plan: Plan
    image_shape: Shape
    class_names: tuple[str, ...]
    provenance: Callable[[range], Mapping[str, str | int]]
    training: Callable[[], Splits]
    classes: Labels | None = None
    first_seed: int = 0
    count: None = field(default=None, init=False)
    digest: None = field(default=None, init=False)

    def labels(self, at: At) -> Labels | None:
        """The classes to sample at positions `at`; None for an unconditional model."""
        if not self.class_names:
            return None
        classes = torch.arange(len(self.class_names)) if self.classes is None else self.classes
        return classes[torch.from_numpy(at) % len(classes)]

    def seeds(self, count: int) -> range:
        """Of the first `count` images."""
        return range(self.first_seed, self.first_seed + count)

    def batches(self, at: At, size: int) -> Iterator[UInt8Images]:
        """The first images, in batches that suit the model; `at` must be 0, 1, 2, ..."""
        done = 0
        with progress_bar(f"sampling {self.name}", len(at)) as on_progress:
            labels, seeds = self.labels(at), self.seeds(len(at))
            for images in sample_batches(self.model, labels, seeds, plan=self.plan):
                done += len(images)
                on_progress(done)
                yield images


def batches_of(parts: Sequence[Part], size: int) -> Iterator[UInt8Images]:
    """Images of data sets, one set after another, at most `size` at a time."""
    for dataset, rows in parts:
        for start in range(0, len(rows), size):
            yield dataset.take(rows[start : start + size])


def stored_images(text: str, overrides: Sequence[str] = ()) -> StoredImages:
    """What `text` names.

    A name of the catalogue means its held-out images, a path all of its images; NAME:train and
    NAME:held-out choose a split.

    Args:
        text: as `data.source`, perhaps with a split.
        overrides: `data.*` such as data.resolution=64.
    Raises:
        DataError, ConfigError: nothing is there, or it cannot be used.
    """
    source, _, split = text.rpartition(":")
    if split not in SPLITS or not source:
        source, split = text, "held-out" if text in CATALOGUE else ""
    mapping = override({"data": {"source": source}}, list(overrides))["data"]
    config = parse(DataConfig, mapping, "override")
    if not split:
        return StoredImages(text, load_whole(config))
    splits = load(config)
    chosen, other = splits.train, splits.held_out
    if split == "held-out":
        chosen, other = other, chosen
    return StoredImages(f"{source}:{split}", (chosen,), other)


def with_real_frequencies(images: ImageSource, real: ImageSource, seed: int) -> ImageSource:
    """A conditional model's images with the label frequencies of a draw of real images.

    Exactly balanced classes vary less than real draws do, and would score below the floor. The
    labels are those of the floor's images if the source has another split, else drawn from the
    frequencies of `real`. Without labels of the same classes nothing changes.
    """
    if not isinstance(images, GeneratedImages) or not isinstance(real, StoredImages):
        return images
    names = images.class_names
    parts = real.parts if real.other is None else (real.other,)
    if not names or any(part.labels is None or part.class_names != names for part in parts):
        return images
    labels = torch.cat([torch.from_numpy(part.labels) for part in parts])
    rows = torch.from_numpy(shuffled(len(labels), seed))
    if real.other is None:
        random = generator("labels", seed)
        rows = torch.randint(len(labels), (max(len(labels), SAMPLES),), generator=random)
    return replace(images, classes=labels[rows])


def draw(count: int, of: int, seed: int) -> Int64[np.ndarray, " _"]:
    """`count` positions of `of`, at random, without repetition; all in order if it is all."""
    if count == of:
        return np.arange(of)
    return shuffled(of, seed)[:count]


def shuffled(of: int, seed: int) -> Int64[np.ndarray, " of"]:
    """All positions of `of` in a random order."""
    return torch.randperm(of, generator=generator("draw", seed)).numpy()
