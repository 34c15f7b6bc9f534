"""Scores of a set of images against a reference: `score`, the only evaluator."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.core.console import say
from sfumato.core.images import UInt8Images
from sfumato.data.dataset import Dataset, Splits
from sfumato.data.source import as_items
from sfumato.evaluation.copies import Copies, find_copies
from sfumato.evaluation.image_sources import (
    ArrayImages,
    GeneratedImages,
    ImageSource,
    StoredImages,
)
from sfumato.evaluation.protocol import (
    EvaluationConfig,
    Protocol,
    named_metrics,
    stamped,
    stamped_classes,
)
from sfumato.evaluation.reference import (
    GivenImages,
    Reference,
    ScoresByClass,
    ScoresByKey,
    Seen,
    prepare,
    scores_of,
)
from sfumato.metrics import METRICS
from sfumato.metrics.estimate import Estimate, Excess
from sfumato.metrics.features import ImageFeatures
from sfumato.metrics.frechet import FrechetReference

POWER = 1.53
"""Times its interval's half-width that a difference must be to be found with 85 % probability."""
MOST_IMAGES = 10_000_000
"""No advice to use more images than these."""
UNEVEN, LISTED = 0.1, 5
"""A class is listed if its floor has more or fewer images by that share; so many are listed."""


@dataclass(frozen=True)
class Scores:
    """Scores beside their floors.

    Args:
        scores, floors: by the key of the metric.
        protocol: what the scores mean.
        class_histogram: how many images the judge assigns to each class; empty without labels.
        classes, class_floors: scores and floors of each class, by its name.
        copies: suspected copies of training images, and how the samples vary.
        warnings: why a score is absent, or what a reader should know of it.
        features: of the images that were scored; not written to JSON.
    """

    scores: ScoresByKey
    floors: ScoresByKey
    protocol: Protocol
    class_histogram: dict[str, int] = field(default_factory=dict)
    classes: ScoresByClass = field(default_factory=dict)
    class_floors: ScoresByClass = field(default_factory=dict)
    copies: Copies | None = None
    warnings: tuple[str, ...] = ()
    features: ImageFeatures | None = field(default=None, repr=False, compare=False)

    @property
    def excess(self) -> dict[str, Excess]:
        """Each score beside its floor."""
        return beside_floor(self.scores, self.floors)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as written to JSON."""
        class_excess = {
            name: beside_floor(own, self.class_floors.get(name, {}))
            for name, own in self.classes.items()
        }
        return {
            "metrics": metric_columns(self.floors, self.protocol),
            "scores": plain(self.scores),
            "floors": plain(self.floors),
            "excess": _plain_excess(self.excess),
            "protocol": dict(self.protocol),
            "class_histogram": dict(self.class_histogram),
            "classes": {name: plain(scores) for name, scores in self.classes.items()},
            "class_floors": {name: plain(scores) for name, scores in self.class_floors.items()},
            "class_excess": {name: _plain_excess(own) for name, own in class_excess.items()},
            "copies": None if self.copies is None else self.copies.to_mapping(),
            "warnings": list(self.warnings),
        }


def score(
    samples: UInt8Images | Dataset | ImageSource,
    reference: Splits | Dataset | ImageSource | FrechetReference | Reference,
    protocol: EvaluationConfig = EvaluationConfig(),
    cache: Path | None = None,
    by_class: bool = True,
) -> Scores:
    """Score images against a reference, beside the floor: the same scores of real images.

    Args:
        samples: the images: [N, C, H, W] uint8, a data set, or any source of images. With classes
            they are an `ArrayImages`.
        reference: a data set with both splits, other images, known mean and covariance of
            features, or a `Reference` that `prepare` made, which then decides the protocol. Prepare
            one to score several sets: classifiers, features and floors are then computed once.
        protocol: how to score.
        cache: folder for classifiers and features of stored images; None: Sfumato's cache.
        by_class: also score each class on its own, if the classes are known.
    Raises:
        ConfigError: N is too large for the data, or features that need labels and have none.
        MetricError: images of another number or shape than the protocol's, or features that are
            unavailable.
    """
    images = as_source(samples)
    real = as_source(reference) if isinstance(reference, Dataset) else reference
    prepared = prepare(real, protocol, images, cache)
    seen = prepared.observe(images)
    wanted = prepared.config.wanted
    stamp = prepared.protocol_of(images, seen)
    scores = stamped(scores_of(wanted, seen.features, prepared.real), stamp)
    floors = stamped(prepared.floors, stamp)
    classes, class_floors = {}, {}
    if by_class:
        found = prepared.by_class(seen.features, seen.classes)
        classes, class_floors = prepared.stamped_by_class(found, stamp), prepared.class_floors
    if prepared.names_both:
        class_floors = stamped_classes(class_floors, stamp)
    absent = [
        f"no {metric.label}: {reason}"
        for metric in wanted
        if (reason := metric.lacks(seen.features, prepared.real))
    ]
    notes = _notes_on_sets(images, prepared, classes, class_floors) if prepared.names_both else []
    copies, on_copies = _copies(images, prepared, seen)
    if isinstance(images, GeneratedImages):
        # No part of the digest: models and samplers are what is compared.
        stamp = {**stamp, **images.provenance(images.seeds(prepared.num_images))}
    return Scores(
        scores=scores,
        floors=floors,
        protocol=stamp,
        class_histogram=class_histogram(seen.features, prepared),
        classes=classes,
        class_floors=class_floors,
        copies=copies,
        warnings=(*notes, *absent, *small_sample_warnings(scores, floors), *on_copies),
        features=seen.features,
    )


def as_source(images: UInt8Images | Dataset | ImageSource) -> ImageSource:
    """An array or a data set as a source of images."""
    if isinstance(images, torch.Tensor):
        return ArrayImages(images)
    return StoredImages(images.name, (images,)) if isinstance(images, Dataset) else images


def class_histogram(features: ImageFeatures, reference: Reference) -> dict[str, int]:
    """How many images the judge assigns to each class; empty without a judge."""
    if features.predicted is None:
        return {}
    names = reference.class_names
    counts = torch.bincount(features.predicted, minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _copies(
    samples: ImageSource, reference: Reference, seen: Seen
) -> tuple[Copies | None, list[str]]:
    """Copies of training images, if the protocol asks for them; else why there are none."""
    splits, notes = reference.originals(samples)
    if splits is None:
        return None, notes
    if isinstance(reference, GivenImages):
        say(
            f"looking for copies of {len(splits.train):,} training images; "
            "evaluation.memorization=false leaves this out"
        )
    return find_copies(seen.images, seen.features.vectors, splits, reference.cache), notes


def plain(scores: Mapping[str, Estimate]) -> dict[str, dict[str, float | int | str | None]]:
    """Estimates as plain dictionaries."""
    return {key: estimate.to_mapping() for key, estimate in scores.items()}


def _plain_excess(excess: Mapping[str, Excess]) -> dict[str, dict[str, float | None]]:
    return {key: found.to_mapping() for key, found in excess.items()}


def metric_columns(floors: Mapping[str, Estimate], protocol: Protocol) -> list[dict[str, Any]]:
    """The metrics with their floors, as results.json lists them."""
    names = named_metrics(protocol)
    return [
        {
            "key": metric.key,
            "label": names[metric.key].label,
            "better": metric.better,
            "floor": floors[metric.key].to_mapping(),
        }
        for metric in METRICS
        if metric.key in floors
    ]


def beside_floor(
    scores: Mapping[str, Estimate], floors: Mapping[str, Estimate]
) -> dict[str, Excess]:
    """The excess of every score that has a floor."""
    return {k: Excess.of(score, floors[k]) for k, score in scores.items() if k in floors}


def small_sample_warnings(
    scores: Mapping[str, Estimate], floors: Mapping[str, Estimate]
) -> list[str]:
    """A note for each score that N is too small to tell from that of real images."""
    notes = []
    for key, excess in beside_floor(scores, floors).items():
        score, floor = scores[key], floors[key]
        if excess.low is None or excess.high is None or not excess.low <= 0 <= excess.high:
            continue
        advice = ""
        if score.standard_error and floor.standard_error and excess.excess:
            reach = (excess.high - excess.low) / 2
            more = math.ceil(score.n * (POWER * reach / abs(excess.excess)) ** 2)
            if more <= MOST_IMAGES:
                advice = f"; about N = {more:,} would, if it is as large as it looks"
        notes.append(
            f"{key.replace('_', ' ')}: N = {score.n} is too small to show a difference from real "
            f"images ({excess.excess:.3g} [{excess.low:.3g}, {excess.high:.3g}] from the floor)"
            f"{advice}"
        )
    return notes


def _notes_on_sets(
    samples: ImageSource,
    reference: Reference,
    classes: ScoresByClass,
    class_floors: ScoresByClass,
) -> list[str]:
    """What a reader should know of the scores of one given set against another."""
    notes, real, learned = [], reference.given, reference.learned_from()
    if real is not None and (common := _common(samples, real)):
        notes.append(
            f"{common} images are the same on both sides, which lowers every distance; a fair "
            "comparison has none in common"
        )
    if learned is not None and (common := _common(samples, learned)):
        notes.append(
            f"the features were learned from {common} of the images of {samples.name}, but from "
            "none of the floor's; name other images, or choose --features efficientnet-lite0"
        )
    if real is not None and samples.image_shape != real.image_shape:
        notes.append(
            f"images of {_pixels(samples)} are compared with images of {_pixels(real)} pixels; "
            "what resizing does to them is part of the score"
        )
    floor, rest = reference.floor_sizes
    sizes = reference.num_images, len(reference.real)
    if floor and (floor < sizes[0] or rest < sizes[1]):
        notes.append(
            f"the floor is of {floor} against {rest} images, for lack of more that are disjoint, "
            f"the score of {sizes[0]} against {sizes[1]}: at equal numbers it would be lower, and "
            "the excess larger"
        )
    return notes + _uneven_classes(classes, class_floors)


def _uneven_classes(classes: ScoresByClass, class_floors: ScoresByClass) -> list[str]:
    """A note if the floor of a class has another number of images than its score."""
    counts = {
        name: (floors[key].n, score.n)
        for name, own in classes.items()
        if (floors := class_floors.get(name, {}))
        for key, score in own.items()
        if key in floors and key != "label_accuracy"
    }
    uneven = [
        f"{name} {floor} for {score}"
        for name, (floor, score) in counts.items()
        if abs(floor - score) >= UNEVEN * score
    ]
    if not uneven:
        return []
    shown = ", ".join(uneven[:LISTED]) + ", ..." * (len(uneven) > LISTED)
    return [
        f"floors of classes are of other numbers of images than the scores ({shown}), and a "
        "distance is larger the fewer there are: compare a class with its floor at equal numbers"
    ]


def _common(a: ImageSource, b: ImageSource) -> int:
    """The number of images in both; 0 unless both are stored."""
    if not isinstance(a, StoredImages) or not isinstance(b, StoredImages):
        return 0
    left, right = (np.concatenate([as_items(p.hashes) for p in s.parts]) for s in (a, b))
    return len(np.intersect1d(left, right))


def _pixels(images: ImageSource) -> str:
    channels, height, width = images.image_shape
    return f"{channels} x {height} x {width}"
