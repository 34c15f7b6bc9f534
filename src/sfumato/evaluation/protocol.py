"""How images are scored: the configuration of an evaluation, and the protocol beside each score."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sfumato.core.config import PositiveInt, component
from sfumato.core.console import say
from sfumato.core.files import cache_folder
from sfumato.core.images import Shape
from sfumato.data.cache import make_folder
from sfumato.metrics import METRICS, Metric, find_metric
from sfumato.metrics.estimate import Estimate, MetricError
from sfumato.metrics.features import FeatureNetwork
from sfumato.metrics.pretrained import (
    EfficientNetFeatures,
    InceptionFeatures,
    TimmFeatures,
    standard_weights,
)
from sfumato.networks.classifier import ClassifierConfig

Protocol = Mapping[str, str | int | float]
SMALLEST = 16
"""Pixels per side below which ImageNet features say little."""
OF_ALL_CLASSES = frozenset(
    {"training_digest", "reference", "reference_images", "reference_digest", "labels"}
)
"""Parts of a protocol that depend on the other classes, which scores of one class leave out."""


def build_protocol(
    sets: Protocol, network: FeatureNetwork, conditions: Protocol
) -> dict[str, str | int | float]:
    """What a score means.

    Args:
        sets: what is compared, and how many images of it.
        network: the features.
        conditions: the seed of draws and classifiers, the interval; floor, labels and judge.
    """
    return {
        **sets,
        "features": network.name,
        "feature_dim": network.dim,
        "feature_weights": network.digest[:16],
        "resize": network.resize,
        **conditions,
    }


def named_metrics(protocol: Protocol) -> dict[str, Metric]:
    """The metrics by their keys. A Fréchet distance of the FID's features is called FID."""
    if (protocol["features"], protocol["resize"]) != ("inception", "tensorflow"):
        return {metric.key: metric for metric in METRICS}
    return {m.key: replace(m, label=m.label.replace("Fréchet distance", "FID")) for m in METRICS}


def protocol_digest(protocol: Protocol) -> str:
    """A short name of all that scores must have in common to be compared.

    A digest of the content replaces the name of a set, where there is one.
    """
    names = {"images", "data"}
    if {"reference_digest", "reference_checkpoint"} & protocol.keys():
        names.add("reference")
    same = {key: value for key, value in protocol.items() if key not in names}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def stamped(scores: Mapping[str, Estimate], protocol: Protocol) -> dict[str, Estimate]:
    """The scores with the digest of their protocol."""
    return {key: _with(score, protocol) for key, score in scores.items()}


def stamped_class(
    scores: Mapping[str, Estimate], protocol: Protocol, reference_digest: str
) -> dict[str, Estimate]:
    """Scores of a class with a protocol that does not depend on the other classes beside it.

    Args:
        scores: of the class. Only the label accuracy depends on the judge of all classes.
        protocol: that of all classes together.
        reference_digest: of the real images of the class.
    """
    own = {part: value for part, value in protocol.items() if part not in OF_ALL_CLASSES}
    own["class_reference_digest"] = reference_digest
    unjudged = {part: value for part, value in own.items() if part != "judge_weights"}
    return {
        key: _with(score, (own if key == "label_accuracy" else unjudged) | {"num_images": score.n})
        for key, score in scores.items()
    }


def stamped_classes(
    classes: Mapping[str, Mapping[str, Estimate]], protocol: Protocol
) -> dict[str, dict[str, Estimate]]:
    """Scores of the classes of two named sets: the protocol names the class."""
    return {
        name: {
            key: _with(score, {**protocol, "class": name, "num_images": score.n})
            for key, score in own.items()
        }
        for name, own in classes.items()
    }


def _with(score: Estimate, protocol: Protocol) -> Estimate:
    return replace(score, protocol=protocol_digest(protocol))


@component
class ClassifierFeatures:
    """The penultimate layer of a small classifier of the very classes that are judged.

    For grey or tiny images, which networks trained on ImageNet do not know. It is trained in
    seconds, on training images that the floor does not use.

    Args:
        width, num_features: see `ClassifierConfig`.
    """

    kind: Literal["classifier"] = "classifier"
    width: int = 16
    num_features: int = 64

    def __post_init__(self) -> None:
        self.network()  # which checks the values

    def network(self) -> ClassifierConfig:
        """The network to train."""
        return ClassifierConfig(width=self.width, num_features=self.num_features)


PretrainedFeatures = InceptionFeatures | EfficientNetFeatures | TimmFeatures
Features = Annotated[ClassifierFeatures | PretrainedFeatures, Field(discriminator="kind")]
MetricName = Annotated[str, AfterValidator(lambda name: find_metric(name).key)]
"""The key of a metric; an alias such as "fid" is accepted and replaced by the key."""


@component
class EvaluationConfig:
    """How images are scored.

    Args:
        num_images: N, generated images and also real images of the floor. None: the size of the
            held-out split, or less if there are too few training images.
        features: what distances are measured between.
        metrics: which to compute. Every further metric costs the comparisons of a study power.
            Label accuracy needs labels, the Inception Score the features "inception".
            The extrapolation to N → ∞ needs 4 images per side and feature.
        memorization: compare samples with every training image, in features and in pixels. None:
            yes for runs, and for two sets with classifier features; other features would have to
            be computed for all training images.
        seed: of the draws and the classifiers.
        batch_size: images at a time; changes no score.
    """

    num_images: Annotated[int, Field(ge=4)] | None = None
    features: Features = ClassifierFeatures()
    metrics: tuple[MetricName, ...] = ("frechet_distance", "label_accuracy")
    memorization: bool | None = None
    seed: int = 0
    batch_size: PositiveInt = 250

    def __post_init__(self) -> None:
        if "inception_score" in self.metrics and self.features.kind != "inception":
            raise ValueError(
                "metrics names inception_score, which needs features.kind = 'inception', got "
                f"{self.features.kind!r}"
            )

    @property
    def wanted(self) -> list[Metric]:
        """The metrics to compute, in the order of tables."""
        return [metric for metric in METRICS if metric.key in self.metrics]


def default_features(shape: Shape, has_classes: bool, cache: Path | None = None) -> Features:
    """The classifier for grey or tiny images whose classes are known, else Inception.

    Falls back to EfficientNet-lite0, with a message, if Inception's weights are unavailable. The
    choice depends on the reference alone, so that everything measured against it compares.
    """
    channels, height, width = shape
    if has_classes and (channels == 1 or min(height, width) < SMALLEST):
        return ClassifierFeatures()
    try:
        standard_weights(make_folder((cache or cache_folder()) / "weights"))
    except MetricError as error:
        say(f"features efficientnet-lite0, since those of the FID are unavailable: {error}")
        return EfficientNetFeatures()
    return InceptionFeatures()


def feature_network(features: PretrainedFeatures, cache: Path) -> FeatureNetwork:
    """The network, its weights from the cache. Raises MetricError if it is unavailable."""
    return features.build(make_folder(cache / "weights"))
