"""Real images prepared for scoring: their features, the floors they give, and the protocol.

The floor is the same metrics between real images, at the same N.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from sfumato.core.errors import ConfigError
from sfumato.core.files import cache_folder
from sfumato.core.images import Labels, UInt8Images
from sfumato.core.noise import derive_seed
from sfumato.data.dataset import Splits
from sfumato.data.source import as_items
from sfumato.evaluation.feature_cache import FeatureCache, Pictures
from sfumato.evaluation.image_sources import GeneratedImages, ImageSource, StoredImages, draw
from sfumato.evaluation.judge import Folds, classifier_features, make_folds, train_classifier
from sfumato.evaluation.protocol import (
    ClassifierFeatures,
    EvaluationConfig,
    Protocol,
    build_protocol,
    feature_network,
    stamped,
    stamped_class,
    stamped_classes,
)
from sfumato.metrics import LABEL_ACCURACY, Metric
from sfumato.metrics.estimate import Estimate, MetricError, share_of
from sfumato.metrics.features import FeatureNetwork, ImageFeatures, weight_digest
from sfumato.metrics.frechet import FrechetReference
from sfumato.networks.classifier import Classifier, ClassifierConfig

JUDGE = ClassifierConfig(width=20)
FEATURE_IMAGES = 75_000
"""A feature network is trained for fewer images than a judge: it needs less accuracy."""
LEAST_OF_A_CLASS = 10
"""Classes with fewer images, on either side, get no distance of their own."""

ScoresByKey = dict[str, Estimate]
ScoresByClass = dict[str, ScoresByKey]


class Side(NamedTuple):
    """One side of a score.

    Args:
        features: of the images.
        classes: the class of each image; None if unknown.
        images: the images themselves; None if they are not needed.
    """

    features: ImageFeatures
    classes: Labels | None = None
    images: UInt8Images | Pictures | None = None


class Reference:
    """What images are scored against; prepared once, used for many sets of images.

    Attributes:
        config: the protocol's settings.
        given: the reference if it is a set of images or known moments; None for a data set. The
            protocol of two given sets names both.
        cache: computes features.
        num_images: N, the images of a set that is scored.
        class_names: of the classes that are scored one by one; () if there are none.
        real: the real images.
        floor: two sets of real images, which are scored against each other; None if there are no
            such sets.
        floors: the metrics between the two sets of the floor, with the digest of the protocol.
        protocol: what the scores mean.
    """

    config: EvaluationConfig
    given: ImageSource | FrechetReference | None
    cache: FeatureCache
    num_images: int
    class_names: tuple[str, ...]
    real: Side
    floor: tuple[Side, Side] | None
    floors: ScoresByKey
    protocol: dict[str, str | int | float]

    @property
    def network(self) -> FeatureNetwork:
        """The features."""
        return self.cache.network

    @cached_property
    def class_floors(self) -> ScoresByClass:
        """The floors class by class, with the digests of the protocols of the classes."""
        if self.floor is None:
            return {}
        return self.stamped_by_class(self.by_class(*self.floor), self.protocol)

    def by_class(self, fake: Side, real: Side | None = None) -> ScoresByClass:
        """The scores of each class, without a digest. The real images are `real` or all."""
        wanted = self.config.wanted
        return scores_by_class(wanted, fake, self.real if real is None else real, self.class_names)

    def stamped_by_class(self, classes: ScoresByClass, protocol: Protocol) -> ScoresByClass:
        """The scores of each class with the digest of the protocol of that class."""
        return stamped_classes(classes, protocol)

    def observe(self, samples: ImageSource) -> Side:
        """One pass over N of the samples, which the result contains.

        Raises:
            MetricError, ConfigError: too few of them, or of another shape than the protocol's.
        """
        raise NotImplementedError

    def protocol_of(self, samples: ImageSource, seen: Side) -> dict[str, str | int | float]:
        """The protocol of the scores of a set of images."""
        return {**self.protocol, "images": samples.name}

    def originals(self) -> Splits | None:
        """The training images that samples may be copies of; None if they are not wanted.

        Raises:
            SfumatoError: they are unavailable.
        """
        raise NotImplementedError

    def learned_from(self) -> StoredImages | None:
        """The images the features were learned from, if they are known."""
        return None


def scores_of(metrics: Sequence[Metric], fake: ImageFeatures, real: ImageFeatures) -> ScoresByKey:
    """The metrics that both sides allow. Raises MetricError for too few images."""
    return {m.key: m(fake, real) for m in metrics if m.lacks(fake, real) is None}


def scores_by_class(
    metrics: Sequence[Metric], fake: Side, real: Side, names: tuple[str, ...]
) -> ScoresByClass:
    """The metrics of each class on its own; empty if the classes of one side are unknown.

    A distance has the bias of the few images of a class: compare it with the floor of the same
    class only. Classes with very few images, on either side, have their label accuracy alone.

    Args:
        metrics: to compute.
        fake, real: images of all classes.
        names: of the classes.
    """
    if fake.classes is None or real.classes is None:
        return {}
    found: ScoresByClass = {}
    for number, name in enumerate(names):
        rows, real_rows = fake.classes == number, real.classes == number
        ours = fake.features.subset(rows, number)
        theirs = real.features.subset(real_rows, number)
        enough = min(len(ours), len(theirs)) >= LEAST_OF_A_CLASS
        chosen = [m for m in metrics if len(ours) and (enough or m is LABEL_ACCURACY)]
        draws = torch.nonzero(rows).flatten()
        scores = scores_of(chosen, ours, theirs)
        if scores:
            found[name] = {key: _of_draws(score, draws) for key, score in scores.items()}
    return found


def _of_draws(score: Estimate, draws: Int64[Tensor, " k"]) -> Estimate:
    """A score that records which of all images it is of, so that only the same are paired."""
    if score.left_out is None:
        return score
    return replace(score, left_out=replace(score.left_out, draws=draws))


class HeldOut(Reference):
    """The held-out images of a data set; the floor is of training images against them.

    The judge of labels, and the features if they are the classifier's, are learned from training
    images that the floor does not use.

    Args:
        splits: the data.
        config: how to score.
        cache: folder for classifiers and features of real images; None: Sfumato's cache.
        given: the held-out images, if they were given as a set of images.
    Raises:
        ConfigError: N is too large for the data, or classifier features of data without labels.
        MetricError: a feature network that is unavailable.
    """

    def __init__(
        self,
        splits: Splits,
        config: EvaluationConfig = EvaluationConfig(),
        cache: Path | None = None,
        given: StoredImages | None = None,
    ) -> None:
        train, held_out = splits.train, splits.held_out
        if train.num_classes == 0 and isinstance(config.features, ClassifierFeatures):
            raise ConfigError(
                f"data set {train.name!r} has no labels, and the features 'classifier' are learned "
                "from labels; set evaluation.features.kind to 'efficientnet-lite0', 'inception' "
                "or 'timm'"
            )
        self.config, self.splits, self.given = config, splits, given
        self.class_names = train.class_names
        self.folds: Folds = make_folds(splits, config.num_images, config.seed)
        self.num_images = len(self.folds.floor)
        folder = cache or cache_folder()
        self._judge: Classifier | None = None
        if train.num_classes:
            self._judge = self._classifier("judge", self.folds.judge, JUDGE, 150_000, folder)
        network = self._feature_network(folder)
        self.cache = FeatureCache(network, self._judge, folder, config.batch_size)
        self.labels: Labels | None = None
        """The classes to sample: N labels in the frequencies of the floor's real images."""
        if train.labels is not None:
            self.labels = torch.from_numpy(train.labels[self.folds.floor])
        classes = None if held_out.labels is None else torch.from_numpy(held_out.labels)
        self.real = Side(self.cache.dataset(held_out), classes)
        drawn = self.cache.dataset(train, self.folds.floor)
        drawn = replace(drawn, labels=self.labels, strata=self.labels)
        self.floor = Side(drawn, self.labels), self.real
        self.protocol = self._protocol()
        floors = scores_of(config.wanted, drawn, self.real.features)
        if "label_accuracy" in floors:
            assert self._recognized is not None  # the floor's images are those of the judge
            floors["label_accuracy"] = share_of(self._recognized)
        self.floors = stamped(floors, self.protocol)

    def _protocol(self) -> dict[str, str | int | float]:
        held_out = self.splits.held_out
        sets: dict[str, str | int | float] = {
            "num_images": self.num_images,
            "reference": f"{held_out.name} {held_out.split}",
            "reference_images": len(held_out),
            "reference_digest": held_out.digest[:16],
            "training_digest": self.splits.train.digest[:16],
        }
        conditions: dict[str, str | int | float] = {
            "quantization": "uint8",
            "evaluation_seed": self.config.seed,
            "interval": "95 %, over draws of generated images",
        }
        if self._judge is not None:
            conditions["judge_weights"] = weight_digest(self._judge)[:16]
            conditions["labels"] = "frequencies of the floor's real images"
        return build_protocol(sets, self.network, conditions)

    def protocol_of(self, samples: ImageSource, seen: Side) -> dict[str, str | int | float]:
        """The protocol of the scores of a set of images."""
        if self.given is None:
            return self.protocol
        protocol = super().protocol_of(samples, seen)
        if seen.features.labels is None:
            protocol.pop("labels", None)
        return protocol

    def observe(self, samples: ImageSource) -> Side:
        """One pass over the samples, which are kept in memory: N is at most the held-out images.

        A model samples the classes `labels`. Raises MetricError for another number or shape of
        images than the protocol's.
        """
        if samples.image_shape != self.splits.train.image_shape:
            raise MetricError(
                f"images of shape {list(samples.image_shape)} cannot be scored against data of "
                f"shape {list(self.splits.train.image_shape)}; generate them at that size"
            )
        stored = isinstance(samples, StoredImages)
        if not stored and samples.count not in (None, self.num_images):
            raise MetricError(
                f"{samples.count} images were given and the protocol is for N = "
                f"{self.num_images}; scores at different N cannot be compared: generate one image "
                "for each of the reference's labels"
            )
        at = draw(self.num_images, samples.count or self.num_images, self.config.seed)
        known = samples.class_names == self.class_names or (self.given is None and not stored)
        if isinstance(samples, GeneratedImages) and known:
            samples = replace(samples, classes=self.labels)
        classes = samples.labels(at) if known else None
        images = torch.cat(list(samples.batches(at, self.config.batch_size)))
        asked = None if stored else classes  # the model was asked for these
        features = replace(self.cache.tensor(images), labels=asked, strata=asked)
        return Side(features, classes, images)

    @cached_property
    def class_floors(self) -> ScoresByClass:
        """The floors class by class: the floor's images of a class and the held-out of it."""
        found = super().class_floors
        for number, name in enumerate(self.class_names):
            if self._recognized is None or "label_accuracy" not in found.get(name, {}):
                continue
            own = self._recognized[self.real.classes == number]
            if len(own):
                digest = found[name]["label_accuracy"].protocol
                found[name]["label_accuracy"] = replace(share_of(own), protocol=digest)
        return found

    def stamped_by_class(self, classes: ScoresByClass, protocol: Protocol) -> ScoresByClass:
        """The scores of each class with the digest of the protocol of that class."""
        if self.given is not None:
            return stamped_classes(classes, protocol)
        return {name: self.of_class(name, own) for name, own in classes.items()}

    def of_class(self, name: str, scores: Mapping[str, Estimate]) -> ScoresByKey:
        """Scores of the images of one class, stamped with the protocol of that class.

        It names the real images of the class and nothing of the others, so that models of one
        class and models of several compare by it.
        """
        held_out = self.splits.held_out
        assert held_out.labels is not None
        own = held_out.hashes[held_out.labels == held_out.class_names.index(name)]
        digest = hashlib.sha256(np.sort(as_items(own)).tobytes()).hexdigest()[:16]
        return stamped_class(scores, self.protocol, digest)

    def originals(self) -> Splits | None:
        """The training images that samples may be copies of; None if they are not wanted."""
        return None if self.config.memorization is False else self.splits

    def learned_from(self) -> StoredImages | None:
        """The training images the features were learned from."""
        return StoredImages("", (self.splits.train.subset(self.folds.features),))

    @cached_property
    def _recognized(self) -> Bool[Tensor, " M"] | None:
        """Which held-out images the judge recognizes; None without labels."""
        predicted, classes = self.real.features.predicted, self.real.classes
        return None if classes is None or predicted is None else predicted == classes

    def _classifier(
        self,
        name: str,
        fold: Int64[np.ndarray, " k"],
        config: ClassifierConfig,
        images: int,
        folder: Path,
    ) -> Classifier:
        seed = derive_seed(name, self.config.seed)
        return train_classifier(
            self.splits.train, fold, config, seed, folder / "classifiers", images
        )

    def _feature_network(self, folder: Path) -> FeatureNetwork:
        if not isinstance(self.config.features, ClassifierFeatures):
            return feature_network(self.config.features, folder)
        network = self.config.features.network()
        fold = self.folds.features
        trained = self._classifier("features", fold, network, FEATURE_IMAGES, folder)
        return FeatureNetwork(
            name="classifier",
            digest=weight_digest(trained),
            dim=network.num_features,
            resize="none",
            compute=lambda images: classifier_features(trained, images),
        )
