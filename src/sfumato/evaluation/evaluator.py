"""Scores with their floor, interval and protocol."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from sfumato.core.errors import ConfigError
from sfumato.core.files import cache_folder
from sfumato.core.images import Labels, UInt8Images
from sfumato.core.noise import derive_seed
from sfumato.data.cache import make_folder
from sfumato.data.dataset import Splits
from sfumato.data.source import as_items
from sfumato.evaluation.copies import find_copies
from sfumato.evaluation.evaluation_results import Results, too_few
from sfumato.evaluation.evaluation_splits import Folds, make_folds
from sfumato.evaluation.feature_cache import Observed, Observer
from sfumato.evaluation.judge import classifier_features, train_classifier
from sfumato.evaluation.protocol import (
    METRICS,
    ClassifierFeatures,
    EvaluationConfig,
    Metric,
    stamped,
    stamped_class,
)
from sfumato.evaluation.scores import (
    Labelled,
    Reference,
    class_histogram,
    scores_by_class,
    scores_of,
)
from sfumato.metrics.estimate import Estimate, MetricError, share_of
from sfumato.metrics.features import FeatureNetwork, weight_digest
from sfumato.metrics.memorization import duplicates, suspicious_distance
from sfumato.networks.classifier import Classifier, ClassifierConfig

__all__ = ["METRICS", "EvaluationConfig", "Evaluator", "Metric", "Results", "evaluate"]

JUDGE = ClassifierConfig(width=20)
FEATURE_IMAGES = 75_000
"""A feature network is trained for fewer images than a judge: it needs less accuracy."""


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
        self._observer = Observer(self.network, self._judge, self._cache, config.batch_size)
        self._held_out = self._observer.dataset(held_out)
        self._reference = Reference.of(self._held_out.features)
        self._floor = self._observer.dataset(train, self.folds.floor)
        self.labels: Labels | None = None
        """The classes to sample: N labels in the frequencies of the floor's real images."""
        if train.labels is not None:
            self.labels = torch.from_numpy(train.labels[self.folds.floor])
        self.floors: dict[str, Estimate] = self._scores(self._floor, self.labels)
        """The same metrics between real images: the floor's training images and the held-out."""
        if "label_accuracy" in self.floors:
            assert self._recognized is not None  # the floor's images are those of the judge
            accuracy = {"label_accuracy": share_of(self._recognized)}
            self.floors |= stamped(accuracy, self.protocol)

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.folds.floor)

    @cached_property
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

    def results(
        self, images: UInt8Images, labels: Labels | None, classes: Labels | None = None
    ) -> "Results":
        """Scores with floor, protocol, classes and copies; raises as `score`.

        Args:
            images, labels: as for `score`.
            classes: of images that were not made for labels, where they are known.
        """
        classes = labels if classes is None else classes
        seen = self.observe(images)
        scores = self._scores(seen, labels)
        copies = None
        if self.config.memorization is not False:
            copies = find_copies(images, seen.features, self.splits, self._observer)
        return Results(
            scores=scores,
            floors=self.floors,
            protocol=self.protocol,
            class_histogram=class_histogram(seen, self.splits.train.class_names),
            classes={} if classes is None else self._by_class(seen, classes),
            class_floors=self.class_floors,
            copies=copies,
            warnings=self._warnings(scores),
        )

    @cached_property
    def class_floors(self) -> dict[str, dict[str, Estimate]]:
        """The floors class by class: the floor's images of a class and the held-out of it."""
        if self.labels is None or self._recognized is None:
            return {}
        found = self._by_class(self._floor, self.labels)
        real_labels = torch.from_numpy(self.splits.held_out.labels)
        for number, name in enumerate(self.splits.train.class_names):
            own = self._recognized[real_labels == number]
            if "label_accuracy" in found.get(name, {}) and len(own):
                protocol = found[name]["label_accuracy"].protocol
                found[name]["label_accuracy"] = replace(share_of(own), protocol=protocol)
        return found

    @cached_property
    def _recognized(self) -> Bool[Tensor, " M"] | None:
        """Which held-out images the judge recognizes; None without labels."""
        labels, predicted = self.splits.held_out.labels, self._held_out.predicted
        if labels is None or predicted is None:
            return None
        return predicted == torch.from_numpy(labels)

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
        return self._observer.tensor(images)

    def score_seen(self, seen: Observed, labels: Labels | None) -> dict[str, Estimate]:
        """`score` of images that were observed already."""
        return self._scores(seen, labels)

    def twins(self, seen: Observed) -> tuple[float, float]:
        """The share of images with a twin among the others: of generated and of held-out ones."""
        rows = slice(self.num_images)
        real = self._held_out.features[rows]
        return (
            duplicates(seen.features, self._suspicious).value,
            duplicates(real, self._suspicious).value,
        )

    @cached_property
    def _suspicious(self) -> float:
        """The distance in features below which two images are taken for the same."""
        rows = slice(self.num_images)
        training = self._observer.dataset(self.splits.train).features
        return suspicious_distance(self._held_out.features[rows], training)

    def _scores(self, seen: Observed, labels: Labels | None) -> dict[str, Estimate]:
        found = scores_of(self.config.metrics, seen, self._reference, self.network, labels)
        return stamped(found, self.protocol)

    def of_class(self, name: str, scores: Mapping[str, Estimate]) -> dict[str, Estimate]:
        """Scores of the images of one class, stamped with the protocol of that class.

        It names the real images of the class and nothing of the others, so that models of a class
        alone and of several are compared by it.
        """
        held_out = self.splits.held_out
        assert held_out.labels is not None
        own = held_out.hashes[held_out.labels == held_out.class_names.index(name)]
        reference = hashlib.sha256(np.sort(as_items(own)).tobytes()).hexdigest()[:16]
        return stamped_class(scores, self.protocol, reference)

    def _by_class(self, seen: Observed, labels: Labels) -> dict[str, dict[str, Estimate]]:
        held_out = self.splits.held_out
        assert held_out.labels is not None
        real_labels = torch.from_numpy(held_out.labels)
        real = Labelled(self._held_out, real_labels)
        names = self.splits.train.class_names
        found = scores_by_class(
            self.config.metrics, Labelled(seen, labels.cpu()), real, self.network, names
        )
        return {name: self.of_class(name, own) for name, own in found.items()}

    def _warnings(self, scores: dict[str, Estimate]) -> tuple[str, ...]:
        told = too_few(scores, self.floors)
        if "frechet_infinity" not in set(self.config.metrics) - set(self.floors):
            return tuple(told)
        return (
            *told,
            f"the Fréchet distance at N → ∞ of {self.network.dim} features needs at least "
            f"{4 * self.network.dim} images a side; there are {self.num_images} and "
            f"{len(self._held_out.features)}: hold out more with data.held_out, or use features "
            "of fewer dimensions",
        )

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
