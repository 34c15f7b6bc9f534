"""One pass over images feeds all metrics; what was seen of real images is kept in the cache."""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sfumato.core.errors import RunError
from sfumato.core.files import atomic_path
from sfumato.core.images import UInt8Images
from sfumato.core.tensors import read_tensors, write_tensors
from sfumato.data.cache import make_folder, require_space
from sfumato.data.dataset import Dataset
from sfumato.evaluation.judge import classify
from sfumato.metrics.features import FeatureNetwork, weight_digest
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.moments import Moments
from sfumato.networks.classifier import Classifier

IN_MEMORY = 2**28
"""Features or images of more bytes than this lie in a temporary file that is mapped into memory."""
Rows = Int64[np.ndarray, " k"]
Part = tuple[Dataset, Int64[np.ndarray, " _"]]
"""A data set and which of its images."""


@dataclass(frozen=True)
class Observed:
    """What one pass over images sees: features, and the classes the judge sees."""

    features: Float[Tensor, "N d"]
    predicted: Int64[Tensor, " N"] | None


class Observer:
    """Looks at images through a feature network, and through a judge of labels if there is one.

    Args:
        network: the features.
        judge: says the class of an image; None for data without labels.
        cache: folder for what is seen of real images.
        batch_size: images at a time; changes nothing that is seen.
    """

    def __init__(
        self, network: FeatureNetwork, judge: Classifier | None, cache: Path, batch_size: int
    ) -> None:
        self.network = network
        self.judge = judge
        self._cache = cache
        self._batch_size = batch_size

    def images(self, batches: Iterable[UInt8Images], count: int) -> Observed:
        """See `count` images in one pass. Memory for images is that of one batch."""
        features = storage((count, self.network.dim), torch.float32)
        return Observed(features, self._see(batches, features))

    def _see(
        self, batches: Iterable[UInt8Images], features: Float[Tensor, "N d"]
    ) -> Int64[Tensor, " N"] | None:
        """Write the features of all images into `features`; the classes the judge sees."""
        predicted, done = [], 0
        for images in batches:
            features[done : done + len(images)] = self.network(images)
            done += len(images)
            if self.judge is not None:
                predicted.append(classify(self.judge, images))
        assert done == len(features), f"{done} images came for {len(features)} announced"
        return torch.cat(predicted) if predicted else None

    def tensor(self, images: UInt8Images) -> Observed:
        """See images that are in memory."""
        return self.images(iter(torch.split(images, self._batch_size)), len(images))

    def dataset(self, dataset: Dataset, rows: Rows | None = None) -> Observed:
        """See images of a data set (all when `rows` is None), or remember what was seen."""
        return self.parts([(dataset, np.arange(len(dataset)) if rows is None else rows)])

    def parts(self, parts: Sequence[Part]) -> Observed:
        """The same for images of several sets, one after another.

        The features are mapped from a file of the cache: memory does not grow with their number.

        Raises:
            DataError: the cache has no room for them.
        """
        path = self._path("seen", parts).with_suffix(".npy")
        classes = path.with_suffix(".classes.npy")
        try:
            predicted = None if self.judge is None else _mapped(classes)
            return Observed(_mapped(path), predicted)
        except (OSError, ValueError, EOFError):  # not there, or damaged
            count = sum(len(rows) for _, rows in parts)
        require_space(path.parent, 4 * count * self.network.dim)
        with atomic_path(path) as temporary:
            shape = (count, self.network.dim)
            features = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
            seen = self._see(batches_of(parts, self._batch_size), torch.from_numpy(features))
            features.flush()
        if seen is not None:
            with atomic_path(classes) as temporary, temporary.open("wb") as file:
                np.save(file, seen.numpy(), allow_pickle=False)
        return Observed(_mapped(path), seen)

    def reference(self, parts: Sequence[Part]) -> FrechetReference:
        """Only mean and covariance, in memory that does not grow with the number of images."""
        path = self._path("moments", parts)
        try:
            tensors = read_tensors(path)
            mean, covariance = tensors["mean"], tensors["covariance"]
        except (RunError, KeyError):
            moments = Moments(self.network.dim)
            for images in batches_of(parts, self._batch_size):
                moments.add(self.network(images))
            mean, covariance = moments.mean, moments.covariance
            write_tensors(path, {"mean": mean, "covariance": covariance})
        count = sum(len(rows) for _, rows in parts)
        return FrechetReference.of_moments(mean, covariance, count)

    def _path(self, kind: str, parts: Sequence[Part]) -> Path:
        """Named by all that is seen depends on."""
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
        return make_folder(self._cache / "features") / f"{key}.safetensors"


def batches_of(parts: Sequence[Part], size: int) -> Iterator[UInt8Images]:
    """The images of all parts, at most `size` at a time."""
    for dataset, rows in parts:
        for start in range(0, len(rows), size):
            yield dataset.take(rows[start : start + size])


def _mapped(path: Path) -> Tensor:
    """An array of the cache; what is written to it stays with the process."""
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def storage(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room for features or images: in memory, or when large in a file that has no name any more."""
    size = math.prod(shape)
    if dtype.itemsize * size <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    with tempfile.NamedTemporaryFile(prefix="sfumato-features-") as file:
        # Unlinked on leaving; the mapping keeps the space until the tensor is gone.
        return torch.from_file(file.name, shared=True, size=size, dtype=dtype).view(shape)
