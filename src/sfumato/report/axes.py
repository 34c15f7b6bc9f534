"""Scales and ticks for the figures."""

import math
from dataclasses import dataclass

Number = int | float


@dataclass(frozen=True)
class Axis:
    """Maps data in [low, high] to pixels in [start, end].

    Args:
        low, high: the data shown; both above 0 when `log`.
        start, end: pixels; end < start for an axis that points up.
        log: logarithmic.
    """

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool = False

    def __call__(self, value: Number) -> float:
        """The pixel of a value."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, at_most: int = 5) -> list[Number]:
        """Round values within the axis."""
        return _log_ticks(self.low, self.high) if self.log else self._linear_ticks(at_most)

    def _linear_ticks(self, at_most: int) -> list[Number]:
        step = nice_step((self.high - self.low) / at_most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(k * step, 12) for k in range(first, last + 1)]


def nice_step(rough: Number) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def _log_ticks(low: Number, high: Number) -> list[Number]:
    """Powers of ten, with 2 and 5 between them while there are few."""
    for multiples in ((1, 2, 5), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**p for p in powers for m in multiples if low <= m * 10.0**p <= high]
        if len(ticks) <= 6:
            return ticks
    return ticks[:: math.ceil(len(ticks) / 6)]


def limits(values: list[Number], from_zero: bool) -> tuple[Number, Number]:
    """Bounds that hold all values with some air; from 0 where that does not waste the space."""
    low, high = min(values), max(values)
    if from_zero and low >= 0 and (low < 0.5 * high or high == 0):
        low = 0.0
    air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if low == 0 and from_zero else low - air), high + air


def push_apart(positions: list[Number], gap: Number, low: Number, high: Number) -> list[Number]:
    """Move labels as little as needed so that neighbours are `gap` apart, within [low, high]."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    gap = min(gap, (high - low) / max(len(positions) - 1, 1))
    placed: list[Number] = []
    for i in order:
        placed.append(max(positions[i], placed[-1] + gap if placed else low))
    bottom = high
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], bottom)
        bottom = placed[k] - gap
    result = [0.0] * len(positions)
    for k, i in enumerate(order):
        result[i] = placed[k]
    return result
