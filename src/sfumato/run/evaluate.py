"""Scores with their floor, interval and protocol."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from sfumato.core.errors import ConfigError
from sfumato.core.images import Labels, UInt8Images
from sfumato.core.noise import derive_seed
from sfumato.data.cache import cache_folder, make_folder
from sfumato.data.dataset import Splits
from sfumato.metrics.estimate import Estimate, Excess, MetricError, proportion
from sfumato.metrics.features import FeatureNetwork, weight_digest
from sfumato.networks.classifier import Classifier, ClassifierConfig
from sfumato.run.classifier import classifier_features, train_classifier
from sfumato.run.copies import Copies, find_copies
from sfumato.run.folds import Folds, make_folds
from sfumato.run.observe import Observed, Observer
from sfumato.run.protocol import METRICS, ClassifierFeatures, EvaluationConfig, Metric
from sfumato.run.scores import Reference, class_histogram, scores_by_class, scores_of

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
        """Scores with floor, protocol, classes and copies; raises as `score`."""
        seen = self.observe(images)
        return Results(
            scores=self._scores(seen, labels),
            floors=self.floors,
            protocol=self.protocol,
            class_histogram=class_histogram(seen, self.splits.train.class_names),
            classes={} if labels is None else self._by_class(seen, labels),
            class_floors=self.class_floors,
            copies=self._copies(images, seen) if self.config.memorization else None,
            warnings=self._warnings(),
        )

    @cached_property
    def class_floors(self) -> dict[str, dict[str, Estimate]]:
        """The floors class by class: the floor's images of a class and the held-out of it."""
        return {} if self.labels is None else self._by_class(self._floor, self.labels)

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

    def _copies(self, images: UInt8Images, seen: Observed) -> Copies:
        """Copies among generated images, by their features and by their pixels."""
        train, held_out = self.splits.train, self.splits.held_out
        everything = self._observer.dataset(train).features
        rows = slice(self.num_images)  # as many held-out images as there are generated ones
        return find_copies(
            (images, seen.features),
            (train, everything),
            (held_out.subset(np.arange(len(held_out))[rows]), self._held_out.features[rows]),
        )

    def _scores(self, seen: Observed, labels: Labels | None) -> dict[str, Estimate]:
        return scores_of(self.config.metrics, seen, self._reference, self.network, labels)

    def _by_class(self, seen: Observed, labels: Labels) -> dict[str, dict[str, Estimate]]:
        held_out = self.splits.held_out
        assert held_out.labels is not None
        real_labels = torch.from_numpy(held_out.labels)
        names, real = self.splits.train.class_names, self._held_out.features
        return scores_by_class(self.config.metrics, seen, labels, real, real_labels, names)

    def _warnings(self) -> tuple[str, ...]:
        missing = set(self.config.metrics) - set(self.floors)
        if "frechet_infinity" not in missing:
            return ()
        return (
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


@dataclass(frozen=True)
class Results:
    """Scores beside their floors.

    Args:
        scores, floors: by the key of the metric.
        protocol: what the scores mean.
        class_histogram: images the judge sees in each class; empty without labels.
        classes, class_floors: scores and floors of each class, by its name.
        copies: suspected copies of training images, and how the samples vary.
        warnings: what was asked for and could not be had, or says less than it seems to.
    """

    scores: dict[str, Estimate]
    floors: dict[str, Estimate]
    protocol: dict[str, str | int | float]
    class_histogram: dict[str, int] = field(default_factory=dict)
    classes: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    class_floors: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    copies: Copies | None = None
    warnings: tuple[str, ...] = ()

    @property
    def excess(self) -> dict[str, Excess]:
        """Each score beside its floor."""
        return beside_floor(self.scores, self.floors)

    def to_mapping(self) -> dict[str, object]:
        """Plain values, as written to JSON."""
        return {
            "scores": plain(self.scores),
            "floors": plain(self.floors),
            "excess": {key: excess.to_mapping() for key, excess in self.excess.items()},
            "protocol": dict(self.protocol),
            "class_histogram": dict(self.class_histogram),
            "classes": {name: plain(scores) for name, scores in self.classes.items()},
            "class_floors": {name: plain(scores) for name, scores in self.class_floors.items()},
            "copies": None if self.copies is None else self.copies.to_mapping(),
            "warnings": list(self.warnings),
        }


def plain(scores: dict[str, Estimate]) -> dict[str, dict[str, float | int | None]]:
    """Estimates as plain dictionaries."""
    return {key: estimate.to_mapping() for key, estimate in scores.items()}


def beside_floor(scores: dict[str, Estimate], floors: dict[str, Estimate]) -> dict[str, Excess]:
    """The excess of every score that has a floor."""
    return {k: Excess.of(score, floors[k]) for k, score in scores.items() if k in floors}


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
