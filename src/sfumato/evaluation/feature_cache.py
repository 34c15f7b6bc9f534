"""One pass over images feeds all metrics; the features of stored images are kept in the cache."""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from sfumato.core.errors import RunError
from sfumato.core.files import atomic_path
from sfumato.core.images import UInt8Images
from sfumato.core.tensors import read_tensors, write_tensors
from sfumato.data.cache import make_folder, require_space
from sfumato.data.dataset import Dataset
from sfumato.evaluation.image_sources import At, ImageSource, Part, StoredImages, batches_of
from sfumato.evaluation.judge import classify
from sfumato.metrics.features import FeatureNetwork, ImageFeatures, weight_digest
from sfumato.metrics.frechet import FrechetReference, Moments
from sfumato.networks.classifier import Classifier

IN_MEMORY = 2**28
"""Features or images of more bytes than this lie in a temporary file that is mapped into memory."""
Rows = Int64[np.ndarray, " k"]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images of data sets, one set after another, read from disk when they are indexed."""

    parts: Sequence[Part]

    @cached_property
    def _ends(self) -> Int64[np.ndarray, " P"]:
        return np.cumsum([len(rows) for _, rows in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, at: Int64[Tensor, " b"] | slice) -> UInt8Images:
        positions = np.arange(len(self))[at] if isinstance(at, slice) else at.numpy()
        part = np.searchsorted(self._ends, positions, side="right")
        shape = self.parts[0][0].image_shape
        images = torch.empty(len(positions), *shape, dtype=torch.uint8)
        for k in np.unique(part):
            (dataset, rows), inside = self.parts[k], part == k
            start = self._ends[k] - len(rows)
            images[torch.from_numpy(inside)] = dataset.take(rows[positions[inside] - start])
        return images


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """Computes what metrics need of images, or reads it from the cache.

    Args:
        network: the features.
        judge: predicts the class of an image; None for data without labels.
        folder: for the features of stored images.
        batch_size: images at a time; changes no feature.
    """

    network: FeatureNetwork
    judge: Classifier | None
    folder: Path
    batch_size: int

    def observe(self, images: ImageSource, at: At) -> tuple[UInt8Images | Pictures, ImageFeatures]:
        """The images at positions `at`, and their features, in one pass."""
        if isinstance(images, StoredImages):
            parts = images.rows(at)
            return Pictures(parts), self.parts(parts)
        kept = storage((len(at), *images.image_shape), torch.uint8)

        def batches() -> Iterator[UInt8Images]:
            done = 0
            for batch in images.batches(at, self.batch_size):
                kept[done : done + len(batch)] = batch
                done += len(batch)
                yield batch

        return kept, self.stream(batches(), len(at))

    def stream(self, batches: Iterable[UInt8Images], count: int) -> ImageFeatures:
        """The features of `count` images in one pass. Memory for images is that of one batch."""
        features = storage((count, self.network.dim), torch.float32)
        return ImageFeatures(features, self._fill(batches, features), head=self.network.head)

    def _fill(
        self, batches: Iterable[UInt8Images], features: Float[Tensor, "N d"]
    ) -> Int64[Tensor, " N"] | None:
        """Write the features of all images into `features`; the classes the judge predicts."""
        predicted, done = [], 0
        for images in batches:
            features[done : done + len(images)] = self.network(images)
            done += len(images)
            if self.judge is not None:
                predicted.append(classify(self.judge, images))
        assert done == len(features), f"{done} images came for {len(features)} announced"
        return torch.cat(predicted) if predicted else None

    def tensor(self, images: UInt8Images) -> ImageFeatures:
        """The features of images in memory."""
        return self.stream(iter(torch.split(images, self.batch_size)), len(images))

    def dataset(self, dataset: Dataset, rows: Rows | None = None) -> ImageFeatures:
        """The features of images of a data set (all if `rows` is None), kept in the cache."""
        return self.parts([(dataset, np.arange(len(dataset)) if rows is None else rows)])

    def parts(self, parts: Sequence[Part]) -> ImageFeatures:
        """The same for images of several sets, one after another.

        The features are mapped from a file of the cache: memory does not grow with their number.

        Raises:
            DataError: the cache has no room for them.
        """
        path = self._path("seen", parts).with_suffix(".npy")
        classes = path.with_suffix(".classes.npy")
        files = [path] if self.judge is None else [path, classes]
        try:
            return self._mapped(files)
        except (OSError, ValueError, EOFError):  # missing or damaged
            count = sum(len(rows) for _, rows in parts)
        require_space(path.parent, 4 * count * self.network.dim)
        with atomic_path(path) as temporary:
            shape = (count, self.network.dim)
            features = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
            predicted = self._fill(batches_of(parts, self.batch_size), torch.from_numpy(features))
            features.flush()
        if predicted is not None:
            with atomic_path(classes) as temporary, temporary.open("wb") as file:
                np.save(file, predicted.numpy(), allow_pickle=False)
        return self._mapped(files)

    def _mapped(self, files: list[Path]) -> ImageFeatures:
        """Arrays of the cache; changes to them stay within the process."""
        arrays = (np.load(path, mmap_mode="c", allow_pickle=False) for path in files)
        features, *predicted = map(torch.from_numpy, arrays)
        return ImageFeatures(features, predicted[0] if predicted else None, head=self.network.head)

    def moments(self, parts: Sequence[Part]) -> ImageFeatures:
        """Mean and covariance alone, in memory that does not grow with the number of images."""
        path = self._path("moments", parts)
        try:
            tensors = read_tensors(path)
            mean, covariance = tensors["mean"], tensors["covariance"]
        except (RunError, KeyError):
            moments = Moments(self.network.dim)
            for images in batches_of(parts, self.batch_size):
                moments.add(self.network(images))
            mean, covariance = moments.mean, moments.covariance
            write_tensors(path, {"mean": mean, "covariance": covariance})
        count = sum(len(rows) for _, rows in parts)
        return ImageFeatures(moments=FrechetReference.of_moments(mean, covariance, count))

    def _path(self, kind: str, parts: Sequence[Part]) -> Path:
        """Named by everything the content depends on."""
        made_from = {
            "kind": kind,
            "images": [
                [dataset.digest, hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()]
                for dataset, rows in parts
            ],
            "features": [self.network.name, self.network.digest, self.network.resize],
            "judge": None if self.judge is None else weight_digest(self.judge),
        }
        key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]
        return make_folder(self.folder / "features") / f"{key}.safetensors"


def storage(shape: tuple[int, ...], dtype: torch.dtype) -> Shaped[Tensor, "..."]:
    """Space for features or images: in memory, or if large in an unlinked file on disk."""
    size = math.prod(shape)
    if dtype.itemsize * size <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    with tempfile.NamedTemporaryFile(prefix="sfumato-features-") as file:
        # Unlinked on leaving; the mapping keeps the space until the tensor is gone.
        return torch.from_file(file.name, shared=True, size=size, dtype=dtype).view(shape)
