"""Any images, or known moments of their features, as the reference; `prepare` for all kinds."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from sfumato.core.errors import ConfigError
from sfumato.core.files import cache_folder
from sfumato.data.dataset import Dataset, Splits
from sfumato.evaluation.feature_cache import FeatureCache
from sfumato.evaluation.image_sources import (
    SAMPLES,
    At,
    GeneratedImages,
    ImageSource,
    StoredImages,
    draw,
    shuffled,
    with_real_frequencies,
)
from sfumato.evaluation.judge import most_images
from sfumato.evaluation.protocol import (
    ClassifierFeatures,
    EvaluationConfig,
    build_protocol,
    feature_network,
    stamped,
)
from sfumato.evaluation.reference import HeldOut, Reference, Side, scores_of
from sfumato.metrics.estimate import MetricError
from sfumato.metrics.features import ImageFeatures, tensors_digest
from sfumato.metrics.frechet import FrechetReference

REFERENCE_SEEDS = 1_000_000
"""First seed of a model that is the reference: the two sides must not share noise."""


def prepare(
    reference: Splits | Dataset | ImageSource | FrechetReference | Reference,
    config: EvaluationConfig,
    samples: ImageSource,
    cache: Path | None = None,
) -> Reference:
    """Prepare a reference for scoring `samples`.

    Args:
        reference: a data set (its held-out images are the reference, its training images give the
            floor), any images, or known mean and covariance of features; a prepared reference is
            returned as it is.
        config: how to score.
        samples: what will be scored. Their number and classes decide those of the floor.
        cache: folder for classifiers and features of stored images; None: Sfumato's cache.
    Raises:
        ConfigError, MetricError: too few images, or features that are unavailable.
    """
    if isinstance(reference, Reference):
        return reference
    if isinstance(reference, Splits):
        return HeldOut(reference, config, cache)
    if isinstance(reference, Dataset):
        reference = StoredImages(reference.name, (reference,))
    if isinstance(config.features, ClassifierFeatures):
        return _with_classifier(reference, config, samples, cache)
    return GivenImages(reference, config, samples, cache)


def _with_classifier(
    reference: ImageSource | FrechetReference,
    config: EvaluationConfig,
    samples: ImageSource,
    cache: Path | None,
) -> HeldOut:
    """Classifier features, learned from the other split of a given reference."""
    name = getattr(reference, "name", "the reference")
    splits = reference.splits if isinstance(reference, StoredImages) else None
    if splits is None or splits.train.num_classes == 0:
        raise ConfigError(
            f"the features 'classifier' need a reference with labels and two splits, and "
            f"{name} has not both; name {name}:held-out, or choose others with --features "
            "efficientnet-lite0"
        )
    assert isinstance(reference, StoredImages)
    if reference.parts[0].split == "train":
        raise ConfigError(
            f"the features 'classifier' are learned from {name}, which cannot be the reference "
            "too; name the held-out images, or choose others with --features "
            "efficientnet-lite0"
        )
    most = most_images(splits)
    count = config.num_images or min(most, samples.count or most)
    count = number_of(samples, None, count)
    return HeldOut(splits, replace(config, num_images=count), cache, reference)


class GivenImages(Reference):
    """Any images, or known moments; the floor is of more images from the same source.

    These are the other split if there is one, more samples of a model, or else a part of the
    reference against the rest. Known moments give no floor.

    Args:
        given: the reference.
        config: how to score.
        samples: what will be scored.
        cache: folder for features of stored images; None: Sfumato's cache.
    Raises:
        ConfigError, MetricError: too few images, or features that are unavailable.
    """

    given: ImageSource | FrechetReference

    def __init__(
        self,
        given: ImageSource | FrechetReference,
        config: EvaluationConfig,
        samples: ImageSource,
        cache: Path | None,
    ) -> None:
        assert not isinstance(config.features, ClassifierFeatures)
        self.config = config
        folder = cache or cache_folder()
        network = feature_network(config.features, folder)
        self.cache = FeatureCache(network, None, folder, config.batch_size)
        known = given.n if isinstance(given, FrechetReference) else given.count
        self.num_images = number_of(samples, known, config.num_images)
        self.given, self.class_names, self.floor = given, (), None
        if isinstance(given, FrechetReference):
            self.real = Side(ImageFeatures(moments=given))
            floors = {}
        else:
            images = given
            if isinstance(given, GeneratedImages):
                images = replace(given, first_seed=REFERENCE_SEEDS)
                images = with_real_frequencies(images, samples, config.seed)
                known = number_of(images, samples.count, config.num_images)
            self.given = self._images = images
            self._size = known or 0
            if samples.class_names == images.class_names:
                self.class_names = images.class_names
            self.real = self._real(np.arange(self._size))
            self.floor = self._floor()
            floors = scores_of(config.wanted, *(side.features for side in self.floor))
        self.protocol = self._protocol(self._aligned(samples))
        self.floors = stamped(floors, self.protocol)

    def _floor(self) -> tuple[Side, Side]:
        """At most N images of the reference's source, and the others."""
        images, count, seed = self._images, self.num_images, self.config.seed
        if isinstance(images, GeneratedImages):
            return self._real(np.arange(self._size, self._size + count)), self.real
        if isinstance(images, StoredImages) and (other := images.other) is not None:
            rows = draw(min(count, len(other)), len(other), seed)
            classes = None if other.labels is None else torch.from_numpy(other.labels[rows])
            return Side(self.cache.dataset(other, rows), classes), self.real
        rows, rest = np.split(shuffled(self._size, seed), [min(count, self._size // 2)])
        return Side(self.cache.observe(images, rows)[1], images.labels(rows)), self._real(rest)

    def _real(self, at: At) -> Side:
        """The images of the reference at positions `at`; their moments if they suffice."""
        images = self._images
        classes = images.labels(at)
        if isinstance(images, GeneratedImages):
            start = int(at[0])  # a model's images are taken one after another
            vectors = self._generated.vectors[start : start + len(at)]
            return Side(ImageFeatures(vectors, head=self.network.head), classes)
        streamed = not any("features" in metric.needs for metric in self.config.wanted)
        if isinstance(images, StoredImages) and streamed and not self.class_names:
            return Side(self.cache.moments(images.rows(at)), classes)
        return Side(self.cache.observe(images, at)[1], classes)

    @cached_property
    def _generated(self) -> ImageFeatures:
        """Of a model's images: those of the reference, then the floor's."""
        at = np.arange(self._size + self.num_images)
        batches = self._images.batches(at, self.config.batch_size)
        return self.cache.stream(batches, len(at))

    def _protocol(self, samples: ImageSource) -> dict[str, str | int | float]:
        images = self.given
        sets: dict[str, str | int | float] = {
            "images": samples.name,
            "num_images": self.num_images,
            "reference": "known moments" if isinstance(images, FrechetReference) else images.name,
            "reference_images": len(self.real.features),
        }
        conditions: dict[str, str | int | float] = {"quantization": "uint8"}
        if self.floor is not None:
            floor, rest = (len(side.features) for side in self.floor)
            conditions["floor"] = f"{floor} against {rest} images of the reference's source"
        conditions["evaluation_seed"] = self.config.seed
        conditions["interval"] = "95 %, over draws of the images, the reference fixed"
        models = [i for i in (samples, images) if isinstance(i, GeneratedImages)]
        if any(model.class_names for model in models):
            drawn = any(model.classes is not None for model in models)
            conditions["labels"] = (
                "frequencies of a draw of real images" if drawn else "equal numbers"
            )
        if isinstance(images, FrechetReference):
            tensors = {"mean": images.mean, "factor": images.factor}
            conditions["reference_digest"] = tensors_digest(tensors)[:16]
        elif images.digest:
            conditions["reference_digest"] = images.digest
        if isinstance(images, GeneratedImages):
            drawn_as = images.provenance(images.seeds(self._size))
            conditions |= {f"reference_{key}": value for key, value in drawn_as.items()}
        return build_protocol(sets, self.network, conditions)

    def _aligned(self, samples: ImageSource) -> ImageSource:
        """A model's samples with the label frequencies of the reference."""
        if isinstance(self.given, FrechetReference):
            return samples
        return with_real_frequencies(samples, self.given, self.config.seed)

    def observe(self, samples: ImageSource) -> Side:
        """One pass over N of the samples. Raises ConfigError for too few."""
        count = number_of(samples, None, self.num_images)
        at = draw(count, samples.count or count, self.config.seed)
        samples = self._aligned(samples)
        images, features = self.cache.observe(samples, at)
        return Side(features, samples.labels(at), images)

    def originals(self) -> Splits | None:
        """The reference's training images, if it has any and the protocol asks for copies."""
        if self.config.memorization and isinstance(self.given, GeneratedImages):
            return self.given.training()
        if self.config.memorization and isinstance(self.given, StoredImages):
            return self.given.splits
        return None


def number_of(images: ImageSource, others: int | None, wanted: int | None) -> int:
    """How many images are scored, against `others` images (None: unbounded).

    Raises:
        ConfigError: there are fewer images than are wanted.
        MetricError: there are fewer than four.
    """
    if wanted is not None and images.count is not None and wanted > images.count:
        raise ConfigError(
            f"evaluation.num_images is {wanted}, but {images.name} has {images.count} images; ask "
            "for at most that many, or leave it out"
        )
    count = wanted or images.count or min(others or SAMPLES, SAMPLES)
    if count < 4:
        raise MetricError(f"{images.name} has {count} images; a score needs at least 4")
    return count
