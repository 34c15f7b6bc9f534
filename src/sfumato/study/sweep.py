"""Arms from ranges of values: a grid, random draws, or a search by Optuna."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from sfumato.core.config import PositiveInt, component, may_change, override
from sfumato.core.noise import generator

AT_LEAST_ONE = Field(min_length=1)
Value = bool | int | float | str


def four_digits(value: float) -> float:
    """The value with four significant digits: more would only clutter the report."""
    return float(f"{value:.4g}")


@component
class Range:
    """A range of numbers or a choice of values.

    Args:
        low, high: both ends are included; whole numbers if both are.
        log: uniform in the logarithm.
        choices: the values to choose from, instead of a range.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("a range has either choices, or low and high")
            return
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(
                f"a range needs low < high, or choices; got low={self.low}, high={self.high}"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low > 0, got low={self.low}")

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, random: torch.Generator) -> Value:
        """One value."""
        if self.choices:
            return self.choices[int(torch.randint(len(self.choices), (), generator=random))]
        assert self.low is not None
        assert self.high is not None
        share = float(torch.rand((), generator=random, dtype=torch.float64))
        low, high = float(self.low), float(self.high)
        if self.whole:  # every whole number has its own interval of the same width
            low, high = low - 0.5, high + 0.5
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        if self.whole:
            return min(max(round(value), int(self.low)), int(self.high))
        return four_digits(value)


Space = Annotated[dict[str, Range], AT_LEAST_ONE]
"""Dotted keys of an experiment -> the ranges of their values."""


@component
class Grid:
    """Every combination of some values, for every arm.

    Args:
        values: dotted key -> its values, at least one.
    """

    kind: Literal["grid"] = "grid"
    values: Annotated[dict[str, Annotated[tuple[Value, ...], AT_LEAST_ONE]], AT_LEAST_ONE]

    def points(self) -> list[dict[str, Value]]:
        """The combinations, the last key changing fastest."""
        combinations = itertools.product(*self.values.values())
        return [dict(zip(self.values, values, strict=True)) for values in combinations]


@component
class RandomSweep:
    """Random values, the same ones for every arm.

    Source: Bergstra & Bengio 2012.

    Args:
        trials: number of draws, at least 1.
        seed: of the draws; further trials with the same seed keep the earlier ones.
        ranges: dotted key -> the range of its values.
    """

    kind: Literal["random"] = "random"
    trials: PositiveInt
    seed: int = 0
    ranges: Space

    def points(self) -> list[dict[str, Value]]:
        """The draws."""
        return [
            {key: r.draw(generator(self.seed, k, key)) for key, r in self.ranges.items()}
            for k in range(self.trials)
        ]


@component
class OptunaSearch:
    """A search for each arm by Optuna's tree of Parzen estimators; every trial has the budget.

    The optimized score flatters the winner: train it again with other seeds before comparing it.

    Source: Bergstra et al. 2011. Needs the extra `optuna`.

    Args:
        trials: number per arm, at least 1.
        seed: of the proposals.
        ranges: dotted key -> the range of its values.
        metric: the search optimizes its mean over the training seeds.
    """

    kind: Literal["optuna"] = "optuna"
    trials: Annotated[PositiveInt, may_change("study")]
    seed: int = 0
    ranges: Space
    metric: str = "frechet_distance"


AnySweep = Annotated[Grid | RandomSweep | OptunaSearch, Field(discriminator="kind")]


@component
class SweepTable:
    """The table [sweep] of a study's file."""

    sweep: AnySweep


def expanded(arms: Mapping[str, Any], sweep: Grid | RandomSweep) -> dict[str, Any]:
    """Every arm of a study's mapping at every point of a sweep.

    Raises:
        ConfigError: a key with a value in place of a section.
    """
    return {
        point_name(name, point): changed(arm, point)
        for name, arm in arms.items()
        for point in sweep.points()
    }


def changed(arm: Mapping[str, Any], point: Mapping[str, Value]) -> dict[str, Any]:
    """The mapping of an arm with the values of a point."""
    # JSON writes numbers, strings and booleans as TOML reads them.
    return override(arm, [f"{key}={json.dumps(value)}" for key, value in point.items()])


def point_name(arm: str, point: Mapping[str, Value]) -> str:
    """`ddpm,learning_rate=0.0002`: a short name for a directory, with the last parts of keys."""
    short = shortened(list(point))
    parts = [f"{short[key]}={_readable(value)}" for key, value in point.items()]
    return ",".join([arm, *parts])


def shortened(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted key -> the fewest of its last parts that distinguish it from the others."""
    found = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            tail = ".".join(parts[-count:])
            if sum(f".{other}".endswith(f".{tail}") for other in keys) == 1:
                break
        found[key] = tail
    return found


def _readable(value: Value) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("/", "-")
