"""Scores of a set of images against a reference: `score`, the only evaluator."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.core.console import say
from sfumato.core.errors import SfumatoError
from sfumato.core.images import UInt8Images
from sfumato.data.dataset import Dataset, Splits
from sfumato.data.source import as_items
from sfumato.evaluation.copies import Copies, find_copies
from sfumato.evaluation.given_images import GivenImages, prepare
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
    Reference,
    ScoresByClass,
    ScoresByKey,
    Side,
    scores_of,
)
from sfumato.metrics import METRICS
from sfumato.metrics.estimate import Estimate, Excess
from sfumato.metrics.features import ImageFeatures
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.metric import MISSING

POWER = 1.53
"""Times its interval's half-width that a difference must be to be found with 85 % probability."""
MOST_IMAGES = 10_000_000
"""No advice to use more images than these."""
UNEVEN, LISTED = 0.1, 5
"""A class is listed if its floor differs by that share of images; at most five are listed."""


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
    if isinstance(samples, torch.Tensor):
        images: ImageSource = ArrayImages(samples)
    elif isinstance(samples, Dataset):
        images = StoredImages(samples.name, (samples,))
    else:
        images = samples
    prepared = prepare(reference, protocol, images, cache)
    seen = prepared.observe(images)
    stamp = prepared.protocol_of(images, seen)
    scores = scores_of(prepared.config.wanted, seen.features, prepared.real.features)
    classes, class_floors = {}, {}
    if by_class:
        classes = prepared.stamped_by_class(prepared.by_class(seen), stamp)
        class_floors = prepared.class_floors
        if prepared.given is not None:
            class_floors = stamped_classes(class_floors, stamp)
    copies, on_copies = _copies(images, prepared, seen)
    found = Scores(
        scores=stamped(scores, stamp),
        floors=stamped(prepared.floors, stamp),
        protocol=stamp,
        class_histogram=class_histogram(seen.features, prepared),
        classes=classes,
        class_floors=class_floors,
        copies=copies,
        features=seen.features,
    )
    notes = (*warnings_of(found, images, prepared), *on_copies)
    if isinstance(images, GeneratedImages):
        # No part of the digest: models and samplers are what is compared.
        stamp = {**stamp, **images.provenance(images.seeds(prepared.num_images))}
    return replace(found, protocol=stamp, warnings=notes)


def class_histogram(features: ImageFeatures, reference: Reference) -> dict[str, int]:
    """How many images the judge assigns to each class; empty without a judge."""
    if features.predicted is None:
        return {}
    names = reference.class_names
    counts = torch.bincount(features.predicted, minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _copies(
    samples: ImageSource, reference: Reference, seen: Side
) -> tuple[Copies | None, list[str]]:
    """Copies of training images, if the protocol asks for them; else why there are none."""
    try:
        splits = reference.originals()
    except SfumatoError as error:
        name = getattr(reference.given, "name", "")
        return None, [f"no training images of {name} to look for copies of: {error}"]
    if splits is None:
        return None, []
    if splits.train.image_shape != samples.image_shape:
        return None, ["copies are looked for only among images of the training images' size"]
    if isinstance(reference, GivenImages):
        say(
            f"looking for copies of {len(splits.train):,} training images; "
            "evaluation.memorization=false leaves this out"
        )
    assert seen.images is not None
    return find_copies(seen.images, seen.features.vectors, splits, reference.cache), []


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


def warnings_of(scores: Scores, samples: ImageSource, reference: Reference) -> list[str]:
    """Why a score or the floor is absent, and what a reader should know of the others."""
    fake, real = scores.features, reference.real.features
    assert fake is not None
    absent = [
        f"no {metric.label}: {reason}"
        for metric in reference.config.wanted
        if (reason := metric.lacks(fake, real))
    ]
    notes = []
    if reference.floor is None:
        notes.append(f"no floor: {MISSING['features']}")
    if isinstance(reference.given, ImageSource):
        notes += _notes_on_sets(samples, reference.given, reference)
        notes += _uneven_classes(scores.classes, scores.class_floors)
    return notes + absent + small_sample_warnings(scores.scores, scores.floors)


def _notes_on_sets(samples: ImageSource, real: ImageSource, reference: Reference) -> list[str]:
    """Images in common, other sizes, and a floor of fewer images than the score."""
    notes, learned = [], reference.learned_from()
    if common := _common(samples, real):
        notes.append(
            f"{common} images are the same on both sides, which lowers every distance; a fair "
            "comparison has none in common"
        )
    if learned is not None and (common := _common(samples, learned)):
        notes.append(
            f"the features were learned from {common} of the images of {samples.name}, but from "
            "none of the floor's; name other images, or choose --features efficientnet-lite0"
        )
    if samples.image_shape != real.image_shape:
        notes.append(
            f"images of {_pixels(samples)} are compared with images of {_pixels(real)} pixels; "
            "what resizing does to them is part of the score"
        )
    assert reference.floor is not None
    floor, rest = (len(side.features) for side in reference.floor)
    sizes = reference.num_images, len(reference.real.features)
    if floor < sizes[0] or rest < sizes[1]:
        notes.append(
            f"the floor is of {floor} against {rest} images, for lack of more that are disjoint, "
            f"the score of {sizes[0]} against {sizes[1]}: at equal numbers it would be lower, and "
            "the excess larger"
        )
    return notes


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
