"""Scores with their floor, interval and protocol."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sfumato.core.config import component
from sfumato.core.errors import ConfigError
from sfumato.core.images import Labels, UInt8Images
from sfumato.core.noise import derive_seed
from sfumato.data.dataset import Dataset, Splits
from sfumato.metrics.estimate import Estimate, MetricError, proportion
from sfumato.metrics.features import FeatureNetwork, weight_digest
from sfumato.metrics.frechet import FrechetReference, frechet_estimate
from sfumato.networks.classifier import ClassifierConfig
from sfumato.run.classifier import classifier_features, classify, train_classifier
from sfumato.run.folds import Folds, make_folds

FEATURES = ClassifierConfig(width=16)
JUDGE = ClassifierConfig(width=20)


@dataclass(frozen=True)
class Metric:
    """What a report says of a metric."""

    key: str
    label: str
    better: Literal["lower", "higher"]


METRICS = (
    Metric("frechet_distance", "Fréchet distance", "lower"),
    Metric("label_accuracy", "Label accuracy", "higher"),
)


@component
class EvaluationConfig:
    """How images are scored.

    Args:
        num_images: N, generated images as well as real images of the floor. None: as many as the
            held-out split has (fewer where the training images cannot give as many).
        features: what distances are measured between. "classifier": the penultimate layer of a
            small classifier of these very classes.
        seed: of the folds and the classifiers.
        batch_size: images at a time; changes no score.
    """

    num_images: int | None = None
    features: Literal["classifier"] = "classifier"
    seed: int = 0
    batch_size: int = 500

    def __post_init__(self) -> None:
        if self.num_images is not None and self.num_images < 4:
            raise ValueError(f"num_images should be at least 4, got {self.num_images}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size should be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class Observed:
    """What one pass over images sees: features, and the classes the judge sees."""

    features: Float[Tensor, "N d"]
    predicted: Int64[Tensor, " N"]


class Evaluator:
    """Scores images against one data set by one protocol; prepared once, used for every arm.

    Args:
        splits: the data.
        config: the protocol.
        cache: folder for trained classifiers; None: in Sfumato's cache.
    Raises:
        ConfigError: N is too large for the data, or the data have no labels.
    """

    def __init__(
        self,
        splits: Splits,
        config: EvaluationConfig = EvaluationConfig(),
        cache: Path | None = None,
    ) -> None:
        if splits.train.num_classes == 0:
            raise ConfigError(
                f"data set {splits.train.name!r} has no labels, and the features 'classifier' are "
                "learned from labels; evaluate a labelled data set"
            )
        self.config = config
        self.splits = splits
        self.folds: Folds = make_folds(splits, config.num_images, config.seed)
        self._judge = train_classifier(
            splits.train, self.folds.judge, JUDGE, derive_seed("judge", config.seed), cache
        )
        self.network = self._feature_network(cache)
        held_out = self._observe(_batches_of(splits.held_out, None, config.batch_size))
        self._reference = FrechetReference.of(held_out.features)
        floor = self._observe(_batches_of(splits.train, self.folds.floor, config.batch_size))
        assert splits.train.labels is not None
        assert splits.held_out.labels is not None
        self.labels: Labels = torch.from_numpy(splits.train.labels[self.folds.floor])
        """The classes to sample: N labels in the frequencies of the floor's real images."""
        correct = held_out.predicted == torch.from_numpy(splits.held_out.labels)
        self.floors: dict[str, Estimate] = {
            "frechet_distance": frechet_estimate(floor.features, self._reference, self.labels),
            "label_accuracy": proportion(int(correct.sum()), len(correct)),
        }
        """The same metrics between real images: the floor's training images and the held-out."""

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.folds.floor)

    def _feature_network(self, cache: Path | None) -> FeatureNetwork:
        classifier = train_classifier(
            self.splits.train,
            self.folds.features,
            FEATURES,
            derive_seed("features", self.config.seed),
            cache,
            most_images=75_000,  # features need less accuracy than a judge
        )
        return FeatureNetwork(
            name="classifier",
            digest=weight_digest(classifier),
            dim=FEATURES.num_features,
            resize="none",
            compute=lambda images: classifier_features(classifier, images),
        )

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What a score means; the caller adds how the images were sampled."""
        held_out = self.splits.held_out
        return {
            "num_images": self.num_images,
            "reference": f"{held_out.name} {held_out.split}",
            "reference_images": len(held_out),
            "reference_digest": held_out.digest[:16],
            "training_digest": self.splits.train.digest[:16],
            "features": self.network.name,
            "feature_dim": self.network.dim,
            "feature_weights": self.network.digest[:16],
            "judge_weights": weight_digest(self._judge)[:16],
            "resize": self.network.resize,
            "quantization": "uint8",
            "labels": "frequencies of the floor's real images",
            "evaluation_seed": self.config.seed,
            "interval": "95 %, over draws of generated images",
        }

    def score(self, images: UInt8Images, labels: Labels | None) -> dict[str, Estimate]:
        """Score generated images.

        Args:
            images: [N, C, H, W] uint8, as many as `labels` of the evaluator.
            labels: the classes they were sampled for; None for an unconditional model, whose
                label accuracy then is absent.
        Raises:
            MetricError: another number or shape of images than the protocol says.
        """
        return self._scores(self.observe(images), labels)

    def observe(self, images: UInt8Images) -> Observed:
        """One pass over generated images. Raises MetricError as `score` does."""
        if len(images) != self.num_images:
            raise MetricError(
                f"{len(images)} images were given and the protocol says N = {self.num_images}; "
                "scores at different N cannot be compared: generate one image for each of "
                "Evaluator.labels"
            )
        if tuple(images.shape[1:]) != self.splits.train.image_shape:
            raise MetricError(
                f"images of shape {list(images.shape[1:])} cannot be scored against data of shape "
                f"{list(self.splits.train.image_shape)}; generate them at that size"
            )
        return self._observe(iter(torch.split(images, self.config.batch_size)))

    def _scores(self, seen: Observed, labels: Labels | None) -> dict[str, Estimate]:
        scores = {"frechet_distance": frechet_estimate(seen.features, self._reference, labels)}
        if labels is not None:
            correct = int((seen.predicted == labels.cpu()).sum())
            scores["label_accuracy"] = proportion(correct, len(labels))
        return scores

    def _observe(self, batches: Iterable[UInt8Images]) -> Observed:
        """One pass over the images feeds all metrics."""
        features, predicted = [], []
        for images in batches:
            features.append(self.network(images))
            predicted.append(classify(self._judge, images))
        return Observed(torch.cat(features), torch.cat(predicted))

    def results(self, images: UInt8Images, labels: Labels | None) -> "Results":
        """Scores with floor, protocol and the classes that the judge sees."""
        seen = self.observe(images)
        counts = torch.bincount(seen.predicted, minlength=self.splits.train.num_classes)
        histogram = dict(zip(self.splits.train.class_names, counts.tolist(), strict=True))
        return Results(self._scores(seen, labels), self.floors, self.protocol, histogram)


@dataclass(frozen=True)
class Results:
    """Scores beside their floors.

    Args:
        scores, floors: by the key of the metric.
        protocol: what the scores mean.
        class_histogram: images the judge sees in each class.
    """

    scores: dict[str, Estimate]
    floors: dict[str, Estimate]
    protocol: dict[str, str | int | float]
    class_histogram: dict[str, int]

    def to_mapping(self) -> dict[str, object]:
        """Plain values, as written to JSON."""
        return {
            "scores": {key: e.to_mapping() for key, e in self.scores.items()},
            "floors": {key: e.to_mapping() for key, e in self.floors.items()},
            "protocol": dict(self.protocol),
            "class_histogram": dict(self.class_histogram),
        }


def evaluate(
    images: UInt8Images,
    labels: Labels | None,
    reference: Splits,
    protocol: EvaluationConfig = EvaluationConfig(),
) -> Results:
    """Score one set of images against a data set.

    For several sets prepare an `Evaluator` once; the labels to sample come from it too.
    Raises:
        ConfigError, MetricError: as `Evaluator` and `Evaluator.score`.
    """
    return Evaluator(reference, protocol).results(images, labels)


def _batches_of(
    dataset: Dataset, rows: Int64[np.ndarray, " k"] | None, size: int
) -> Iterator[UInt8Images]:
    rows = np.arange(len(dataset)) if rows is None else rows
    for start in range(0, len(rows), size):
        yield dataset.take(rows[start : start + size])
