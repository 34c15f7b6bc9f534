"""A score in relation to its interval, to its floor, and to the other seeds, in words."""

import math

from sfumato.core.numbers import interval, number
from sfumato.runs.results import ArmRecord, MetricColumn, ScoreRecord


def bounds(score: ScoreRecord | None) -> str:
    """The bounds of a score as "7.52 to 8.74", or nothing."""
    return interval(*score.interval) if score is not None and score.interval else ""


def ratio_to_floor(value: float | None, metric: MetricColumn) -> str:
    """Score / floor as "1.8 × floor", if lower is better and the floor is above 0."""
    if value is None or metric.better != "lower" or metric.floor is None:
        return ""
    floor = metric.floor.value
    if floor <= 0 or not math.isfinite(value):
        return ""
    ratio = value / floor
    return f"{ratio:.2g} × floor" if ratio < 99.5 else f"{ratio:,.0f} × floor"


def above_floor(value: float | None, metric: MetricColumn) -> str:
    """The score as its floor and the excess: "floor + 3.11", or "real images − 0.017"."""
    if value is None or metric.floor is None or not math.isfinite(value):
        return ""
    excess = value - metric.floor.value
    base = "floor" if metric.better == "lower" else "real images"
    return f"{base} {'+' if excess >= 0 else '−'} {number(abs(excess))}"


def spread(arm: ArmRecord, metric: str) -> str:
    """The interval of a single run, or the range of the scores over several seeds."""
    values = arm.values(metric)
    if len(values) > 1:
        return f"{len(values)} seeds: {number(min(values))} to {number(max(values))}"
    scores = [run.scores.get(metric) for run in arm.runs]
    return next((bounds(score) for score in scores if score is not None), "")
