"""What an evaluation finds: scores beside their floors, and what a reader should know of them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sfumato.evaluation.copies import Copies
from sfumato.evaluation.protocol import Protocol, named
from sfumato.metrics.estimate import Estimate, Excess

POWER = 1.53
"""Times its interval's half-width that a difference must be to be found with 85 % probability."""
MOST_IMAGES = 10_000_000
"""Advice for more images than these is none."""


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
    protocol: Protocol
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


def plain(scores: Mapping[str, Estimate]) -> dict[str, dict[str, float | int | str | None]]:
    """Estimates as plain dictionaries."""
    return {key: estimate.to_mapping() for key, estimate in scores.items()}


def _plain_excess(excess: Mapping[str, Excess]) -> dict[str, dict[str, float | None]]:
    return {key: found.to_mapping() for key, found in excess.items()}


def metric_columns(floors: Mapping[str, Estimate], protocol: Protocol) -> list[dict[str, Any]]:
    """The metrics with their floors, as results.json lists them."""
    return [
        asdict(metric) | {"floor": floors[key].to_mapping()}
        for key, metric in named(protocol).items()
        if key in floors
    ]


def beside_floor(
    scores: Mapping[str, Estimate], floors: Mapping[str, Estimate]
) -> dict[str, Excess]:
    """The excess of every score that has a floor."""
    return {k: Excess.of(score, floors[k]) for k, score in scores.items() if k in floors}


def too_few(scores: Mapping[str, Estimate], floors: Mapping[str, Estimate]) -> list[str]:
    """A note for each score that N is too small to tell from that of real images."""
    told = []
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
        told.append(
            f"{key.replace('_', ' ')}: N = {score.n} is too small to show a difference from real "
            f"images ({excess.excess:.3g} [{excess.low:.3g}, {excess.high:.3g}] from the floor)"
            f"{advice}"
        )
    return told
