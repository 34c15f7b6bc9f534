"""Numbers as people read them: rounded to what matters, with units."""

import math
from collections.abc import Sequence

MISSING = "–"


def number(value: float | None) -> str:
    """A score or a loss for a table: digits that line up, about three of them.

    118.5, 8.13, 0.964, 0.0012; a dash if it is missing or not finite.
    """
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


def significant(value: float) -> str:
    """Three significant digits, for a sentence or a label; infinity as a sign."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.3g}"


def interval(low: float | None, high: float | None) -> str:
    """The bounds of an interval as "7.52 to 8.74"; a dash if one is missing or not finite."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return MISSING
    return f"{number(low)} to {number(high)}"


def count(value: float | None) -> str:
    """A whole number with separators: 1,437."""
    return MISSING if value is None else f"{value:,.0f}"


def short_count(value: float | None) -> str:
    """A large number in few characters: 950, 1.25 M, 200 k."""
    if value is None:
        return MISSING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds as 8.4 s, 61 s, 4 min 05 s or 3 h 20 min."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def listed(words: Sequence[str]) -> str:
    """An English list: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
