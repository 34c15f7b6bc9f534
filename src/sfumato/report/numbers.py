"""Numbers as people read them: rounded to what matters, with units."""

import math

from sfumato.report.axes import Number
from sfumato.report.records import Arm, Estimate, Metric

MISSING = "–"


def number(value: Number | None) -> str:
    """A score or a loss, to about three digits: 118.5, 8.13, 0.964."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    if size >= 10_000:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:,.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.01 or value == 0 else f"{value:.2g}"


def count(value: Number | None) -> str:
    """A whole number with separators: 1,437."""
    return MISSING if value is None else f"{value:,.0f}"


def short_count(value: Number | None) -> str:
    """A large number in few characters: 950, 1.25 M, 200 k."""
    if value is None:
        return MISSING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: Number | None) -> str:
    """Seconds as 8.4 s, 61 s, 4 min 05 s or 3 h 20 min."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def interval(estimate: Estimate | None) -> str:
    """The bounds of an interval as "7.52 to 8.74", or nothing."""
    if estimate is None or not estimate.has_interval:
        return ""
    return f"{number(estimate.low)} to {number(estimate.high)}"


def ratio_to_floor(value: Number | None, metric: Metric) -> str:
    """How many times the floor a score is, where less is better and the ratio means something."""
    if value is None or metric.better != "lower" or metric.floor is None:
        return ""
    floor = metric.floor.value
    if floor <= 0 or not math.isfinite(value):
        return ""
    ratio = value / floor
    return f"{ratio:.2g} × floor" if ratio < 99.5 else f"{ratio:,.0f} × floor"


def above_floor(value: Number | None, metric: Metric) -> str:
    """The score as its floor and the excess: "floor + 3.11", or "real images − 0.017"."""
    if value is None or metric.floor is None or not math.isfinite(value):
        return ""
    excess = value - metric.floor.value
    base = "floor" if metric.better == "lower" else "real images"
    return f"{base} {'+' if excess >= 0 else '−'} {number(abs(excess))}"


def spread(arm: Arm, metric: str) -> str:
    """The interval of a single run, or the range of the scores over several seeds."""
    values = arm.values(metric)
    if len(values) > 1:
        return f"{len(values)} seeds: {number(min(values))} to {number(max(values))}"
    scores = [run.scores.get(metric) for run in arm.runs]
    return next((interval(score) for score in scores if score is not None), "")


def join(words: list[str]) -> str:
    """An English list: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
