"""Scores with their floor, interval and protocol."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sfumato.core.errors import ConfigError, RunError
from sfumato.core.images import Labels, UInt8Images
from sfumato.core.noise import derive_seed
from sfumato.data.cache import cache_folder, make_folder
from sfumato.data.dataset import Dataset, Splits
from sfumato.metrics.estimate import Estimate, MetricError, proportion
from sfumato.metrics.features import FeatureNetwork, weight_digest
from sfumato.metrics.frechet import FrechetReference, frechet_estimate
from sfumato.metrics.inception_score import inception_score
from sfumato.metrics.kernel import kernel_estimate
from sfumato.metrics.manifold import density_coverage, precision_recall
from sfumato.metrics.memorization import Memorization, memorization
from sfumato.networks.classifier import Classifier, ClassifierConfig
from sfumato.run.checkpoint import read_tensors, write_tensors
from sfumato.run.classifier import classifier_features, classify, train_classifier
from sfumato.run.folds import Folds, make_folds
from sfumato.run.protocol import METRICS, ClassifierFeatures, EvaluationConfig, Metric

__all__ = ["METRICS", "EvaluationConfig", "Evaluator", "Metric", "Results", "evaluate"]

JUDGE = ClassifierConfig(width=20)
FEATURE_IMAGES = 75_000
"""A feature network is trained for fewer images than a judge: it needs less accuracy."""


@dataclass(frozen=True)
class Observed:
    """What one pass over images sees: features, and the classes the judge sees."""

    features: Float[Tensor, "N d"]
    predicted: Int64[Tensor, " N"] | None


class Evaluator:
    """Scores images against one data set by one protocol; prepared once, used for every arm.

    Args:
        splits: the data.
        config: the protocol.
        cache: folder for classifiers and features of real images; None: Sfumato's cache.
    Raises:
        ConfigError: N is too large for the data, or features that need labels and have none.
        MetricError: a feature network that cannot be had.
    """

    def __init__(
        self,
        splits: Splits,
        config: EvaluationConfig = EvaluationConfig(),
        cache: Path | None = None,
    ) -> None:
        train, held_out = splits.train, splits.held_out
        if train.num_classes == 0 and isinstance(config.features, ClassifierFeatures):
            raise ConfigError(
                f"data set {train.name!r} has no labels, and the features 'classifier' are learned "
                "from labels; set evaluation.features.kind to 'efficientnet-lite0', 'inception' "
                "or 'timm'"
            )
        self.config = config
        self.splits = splits
        self.folds: Folds = make_folds(splits, config.num_images, config.seed)
        self._cache = cache or cache_folder()
        self._judge: Classifier | None = None
        if train.num_classes:
            self._judge = self._classifier("judge", self.folds.judge, JUDGE, 150_000)
        self.network = self._feature_network()
        self._held_out = self._observe_real(held_out, np.arange(len(held_out)))
        self._reference = FrechetReference.of(self._held_out.features)
        floor = self._observe_real(train, self.folds.floor)
        self.labels: Labels | None = None
        """The classes to sample: N labels in the frequencies of the floor's real images."""
        if train.labels is not None:
            self.labels = torch.from_numpy(train.labels[self.folds.floor])
        self.floors: dict[str, Estimate] = self._scores(floor, self.labels)
        """The same metrics between real images: the floor's training images and the held-out."""
        if self._held_out.predicted is not None and "label_accuracy" in self.floors:
            assert held_out.labels is not None  # the floor's images are those of the judge
            correct = self._held_out.predicted == torch.from_numpy(held_out.labels)
            self.floors["label_accuracy"] = proportion(int(correct.sum()), len(correct))

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.folds.floor)

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What a score means; the caller adds how the images were sampled."""
        held_out = self.splits.held_out
        stamp: dict[str, str | int | float] = {
            "num_images": self.num_images,
            "reference": f"{held_out.name} {held_out.split}",
            "reference_images": len(held_out),
            "reference_digest": held_out.digest[:16],
            "training_digest": self.splits.train.digest[:16],
            "features": self.network.name,
            "feature_dim": self.network.dim,
            "feature_weights": self.network.digest[:16],
            "resize": self.network.resize,
            "quantization": "uint8",
            "evaluation_seed": self.config.seed,
            "interval": "95 %, over draws of generated images",
        }
        if self._judge is not None:
            stamp["judge_weights"] = weight_digest(self._judge)[:16]
            stamp["labels"] = "frequencies of the floor's real images"
        return stamp

    def score(self, images: UInt8Images, labels: Labels | None) -> dict[str, Estimate]:
        """Score generated images.

        Args:
            images: [N, C, H, W] uint8, N = `num_images`.
            labels: the classes they were sampled for, those of the evaluator; None for an
                unconditional model, whose label accuracy then is absent.
        Raises:
            MetricError: another number or shape of images than the protocol says.
        """
        return self._scores(self.observe(images), labels)

    def results(self, images: UInt8Images, labels: Labels | None) -> "Results":
        """Scores with floor, protocol and the classes that the judge sees; raises as `score`."""
        seen = self.observe(images)
        names, histogram = self.splits.train.class_names, {}
        if seen.predicted is not None:
            counts = torch.bincount(seen.predicted, minlength=len(names))
            histogram = dict(zip(names, counts.tolist(), strict=True))
        return Results(self._scores(seen, labels), self.floors, self.protocol, histogram)

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

    def memorization(self, images: UInt8Images) -> Memorization:
        """Suspected copies of training images among `images`, by their features."""
        train = self._observe_real(self.splits.train, np.arange(len(self.splits.train)))
        features = self.observe(images).features
        return memorization(features, train.features, self._held_out.features)

    def _scores(self, seen: Observed, labels: Labels | None) -> dict[str, Estimate]:
        wanted, real = set(self.config.metrics), self._held_out.features
        labels = None if labels is None else labels.cpu()
        found: dict[str, Estimate] = {}
        if "frechet_distance" in wanted:
            found["frechet_distance"] = frechet_estimate(seen.features, self._reference, labels)
        if "kernel_distance" in wanted:
            found["kernel_distance"] = kernel_estimate(seen.features, real, labels)
        if "inception_score" in wanted and self.network.head is not None:
            found["inception_score"] = inception_score(seen.features @ self.network.head.cpu().T)
        if wanted & {"precision", "recall"}:
            found |= precision_recall(seen.features, real, strata=labels)
        if wanted & {"density", "coverage"}:
            found |= density_coverage(seen.features, real, strata=labels)
        if "label_accuracy" in wanted and labels is not None and seen.predicted is not None:
            found["label_accuracy"] = proportion(int((seen.predicted == labels).sum()), len(labels))
        return {metric.key: found[metric.key] for metric in METRICS if metric.key in found}

    def _classifier(
        self, name: str, fold: Int64[np.ndarray, " k"], config: ClassifierConfig, images: int
    ) -> Classifier:
        seed = derive_seed(name, self.config.seed)
        folder = self._cache / "classifiers"
        return train_classifier(self.splits.train, fold, config, seed, folder, images)

    def _feature_network(self) -> FeatureNetwork:
        if not isinstance(self.config.features, ClassifierFeatures):
            return self.config.features.build(make_folder(self._cache / "weights"))
        network = self.config.features.network()
        trained = self._classifier("features", self.folds.features, network, FEATURE_IMAGES)
        return FeatureNetwork(
            name="classifier",
            digest=weight_digest(trained),
            dim=network.num_features,
            resize="none",
            compute=lambda images: classifier_features(trained, images),
        )

    def _observe(self, batches: Iterable[UInt8Images]) -> Observed:
        """One pass over the images feeds all metrics."""
        features, predicted = [], []
        for images in batches:
            features.append(self.network(images))
            if self._judge is not None:
                predicted.append(classify(self._judge, images))
        return Observed(torch.cat(features), torch.cat(predicted) if predicted else None)

    def _observe_real(self, dataset: Dataset, rows: Int64[np.ndarray, " k"]) -> Observed:
        """The same for images of the data, kept in the cache under all it depends on."""
        made_from = {
            "images": dataset.digest,
            "rows": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
            "features": [self.network.name, self.network.digest, self.network.resize],
            "judge": None if self._judge is None else weight_digest(self._judge),
        }
        key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]
        path = make_folder(self._cache / "features") / f"{key}.safetensors"
        try:
            tensors = read_tensors(path)
            return Observed(tensors["features"], tensors.get("predicted"))
        except (RunError, KeyError):  # not there, or damaged
            seen = self._observe(_batches_of(dataset, rows, self.config.batch_size))
        tensors = {"features": seen.features}
        if seen.predicted is not None:
            tensors["predicted"] = seen.predicted
        write_tensors(path, tensors)
        return seen


@dataclass(frozen=True)
class Results:
    """Scores beside their floors.

    Args:
        scores, floors: by the key of the metric.
        protocol: what the scores mean.
        class_histogram: images the judge sees in each class; empty without labels.
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
    dataset: Dataset, rows: Int64[np.ndarray, " k"], size: int
) -> Iterator[UInt8Images]:
    for start in range(0, len(rows), size):
        yield dataset.take(rows[start : start + size])
