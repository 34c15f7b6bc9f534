"""How images are scored: the configuration of an evaluation, and the metrics there are."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from sfumato.core.config import component
from sfumato.metrics.estimate import Estimate
from sfumato.metrics.inception import InceptionFeatures
from sfumato.metrics.pretrained import EfficientNetFeatures, TimmFeatures
from sfumato.networks.classifier import ClassifierConfig


@dataclass(frozen=True)
class Metric:
    """What a report says of a metric."""

    key: str
    label: str
    better: Literal["lower", "higher"]


METRICS = (
    Metric("frechet_distance", "Fréchet distance", "lower"),
    Metric("frechet_infinity", "Fréchet distance, N → ∞", "lower"),
    Metric("kernel_distance", "Kernel distance", "lower"),
    Metric("inception_score", "Inception Score", "higher"),
    Metric("precision", "Precision", "higher"),
    Metric("recall", "Recall", "higher"),
    Metric("density", "Density", "higher"),
    Metric("coverage", "Coverage", "higher"),
    Metric("label_accuracy", "Label accuracy", "higher"),
)
MetricName = Literal[
    "frechet_distance",
    "frechet_infinity",
    "kernel_distance",
    "inception_score",
    "precision",
    "recall",
    "density",
    "coverage",
    "label_accuracy",
]


Protocol = Mapping[str, str | int | float]


def named(protocol: Protocol) -> dict[str, Metric]:
    """The metrics by their keys. A Fréchet distance of the FID's features is called FID."""
    if (protocol["features"], protocol["resize"]) != ("inception", "tensorflow"):
        return {metric.key: metric for metric in METRICS}
    return {m.key: replace(m, label=m.label.replace("Fréchet distance", "FID")) for m in METRICS}


def protocol_digest(protocol: Protocol) -> str:
    """A short name of all that scores must have in common to be compared.

    Names of sets are no part of it where a digest of their content is.
    """
    names = {"images", "data"}
    if {"reference_digest", "reference_checkpoint"} & protocol.keys():
        names.add("reference")
    same = {key: value for key, value in protocol.items() if key not in names}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def stamped(scores: Mapping[str, Estimate], protocol: Protocol) -> dict[str, Estimate]:
    """The same scores, which now say what protocol they are of."""
    return {key: _with(score, protocol) for key, score in scores.items()}


OF_ALL_CLASSES = frozenset(
    {"training_digest", "reference", "reference_images", "reference_digest", "labels"}
)
"""What scores of a class need not have in common: the other classes that are beside it."""


def stamped_class(
    scores: Mapping[str, Estimate], protocol: Protocol, reference_digest: str
) -> dict[str, Estimate]:
    """Scores of a class with a protocol that holds whatever other classes there are beside it.

    Args:
        scores: of the class. Only the label accuracy hangs on the judge of all classes.
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


def _with(score: Estimate, protocol: Protocol) -> Estimate:
    return replace(score, protocol=protocol_digest(protocol))


def stamped_classes(
    classes: Mapping[str, Mapping[str, Estimate]], protocol: Protocol
) -> dict[str, dict[str, Estimate]]:
    """The same for the scores of each class."""
    return {
        name: {
            key: _with(score, {**protocol, "class": name, "num_images": score.n})
            for key, score in own.items()
        }
        for name, own in classes.items()
    }


@component
class ClassifierFeatures:
    """The penultimate layer of a small classifier of the very classes that are judged.

    For grey or tiny images, of which networks trained on ImageNet know nothing. It is trained in
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


Features = Annotated[
    ClassifierFeatures | InceptionFeatures | EfficientNetFeatures | TimmFeatures,
    Field(discriminator="kind"),
]


@component
class EvaluationConfig:
    """How images are scored.

    Args:
        num_images: N, generated images as well as real images of the floor. None: as many as the
            held-out split has (fewer where the training images cannot give as many).
        features: what distances are measured between.
        metrics: which to compute. Every metric more costs every comparison of a study some power.
            Label accuracy needs labels, the Inception Score the features "inception".
            The extrapolation to N → ∞ needs 4 images a side for each feature.
        memorization: compare samples with every training image, in features and in pixels. None:
            those of runs, and of two sets where the features are the classifier's; others would
            have to be computed for all training images.
        seed: of the folds and the classifiers.
        batch_size: images at a time; changes no score.
    """

    num_images: int | None = None
    features: Features = ClassifierFeatures()
    metrics: tuple[MetricName, ...] = ("frechet_distance", "label_accuracy")
    memorization: bool | None = None
    seed: int = 0
    batch_size: int = 250

    def __post_init__(self) -> None:
        if self.num_images is not None and self.num_images < 4:
            raise ValueError(f"num_images should be at least 4, got {self.num_images}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size should be at least 1, got {self.batch_size}")
        if "inception_score" in self.metrics and self.features.kind != "inception":
            raise ValueError(
                "metrics names inception_score, which needs features.kind = 'inception', got "
                f"{self.features.kind!r}"
            )
