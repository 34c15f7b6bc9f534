"""From scores to verdicts: better, worse, or not shown.

A score varies for two reasons, which are kept apart: the draw of the generated images (known from
its interval) and the training seed (known only when an arm was trained with several). With one seed
an arm, a verdict is about these trained models; with two or more, about the methods.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.stats import nct, norm, t

from sfumato.metrics.estimate import Estimate

Better = Literal["lower", "higher"]

LEVEL = 0.95
POWER = 0.85
"""With what probability an advised number of seeds or images finds the difference (with a little
more than the 80 % that is promised, since the spread is itself an estimate)."""
MOST_SEEDS = 200
MOST_IMAGES = 10_000_000


@dataclass(frozen=True)
class Spread:
    """The scores of one arm, and why they vary.

    Args:
        mean: over the training seeds.
        draws: standard deviation of one score over draws of the generated images.
        seeds: standard deviation over training seeds, without the part of the draws; None for
            one seed.
        num_seeds: how many seeds there are.
        num_images: N, the smallest of the scores'.
    """

    mean: float
    draws: float
    seeds: float | None
    num_seeds: int
    num_images: int

    @staticmethod
    def of(scores: Sequence[Estimate]) -> "Spread":
        """The spread of an arm's scores, one a training seed."""
        values = np.array([score.value for score in scores])
        draws = float(np.mean([(score.standard_error or 0.0) ** 2 for score in scores]))
        seeds = None
        if len(scores) > 1:
            seeds = math.sqrt(max(float(values.var(ddof=1)) - draws, 0.0))
        images = min(score.n for score in scores)
        return Spread(float(values.mean()), math.sqrt(draws), seeds, len(scores), images)

    def variance_of_mean(self, with_seeds: bool) -> float:
        """Of the mean; `seeds` is not below 0, so this is never less than the draws alone give."""
        seeds = self.seeds if with_seeds and self.seeds is not None else 0.0
        return (seeds**2 + self.draws**2) / self.num_seeds


@dataclass(frozen=True)
class Advice:
    """What would probably show a difference; None where that is out of reach or unknown."""

    seeds: int | None
    num_images: int | None


@dataclass(frozen=True)
class Verdict:
    """A comparison of two arms in one metric.

    Args:
        metric: its key.
        a, b: names of the arms.
        difference: a - b, in the metric's unit.
        low, high: its interval, corrected for the number of comparisons.
        verdict: whether a is better or worse than b, or neither is shown.
        text: the same as a sentence.
    """

    metric: str
    a: str
    b: str
    difference: float
    low: float
    high: float
    verdict: Literal["better", "worse", "not shown"]
    text: str

    def to_mapping(self) -> dict[str, str | float]:
        """A plain dictionary, as written to results.json."""
        return asdict(self)


def verdict(
    a: Sequence[Estimate],
    b: Sequence[Estimate],
    better: Better,
    comparisons: int = 1,
    names: tuple[str, str] = ("A", "B"),
    metric: str = "score",
) -> Verdict:
    """Compare two arms by Welch's t (several seeds each) or a normal interval (one seed).

    Args:
        a, b: the scores, one a training seed, all by one protocol.
        better: which direction of the metric is better.
        comparisons: how many verdicts are drawn from the same study. The intervals are
            Bonferroni's, so that all of them hold together with probability 95 %.
        names, metric: for the text.
    """
    left, right = Spread.of(a), Spread.of(b)
    difference = left.mean - right.mean
    with_seeds = left.num_seeds > 1 and right.num_seeds > 1
    parts = [spread.variance_of_mean(with_seeds) for spread in (left, right)]
    freedom = _welch(parts, [left.num_seeds, right.num_seeds]) if with_seeds else math.inf
    reach = _critical(comparisons, freedom) * math.sqrt(sum(parts))
    low, high = difference - reach, difference + reach
    shown = low > 0 or high < 0
    decision: Literal["better", "worse", "not shown"] = "not shown"
    if shown:
        decision = "better" if (difference < 0) == (better == "lower") else "worse"
        a_interval = sorted((abs(low), abs(high)))
        text = (
            f"{names[0]} is {decision} than {names[1]} by {_number(abs(difference))} "
            f"[{_number(a_interval[0])}, {_number(a_interval[1])}]"
        )
    else:
        text = (
            f"{names[0]} and {names[1]}: not shown with these data "
            f"({_number(difference)} [{_number(low)}, {_number(high)}]); "
            + _remedy(advise(abs(difference), left, right, comparisons), left, right)
        )
    if not with_seeds:
        text += "; one training seed, so this is about these models, not about the methods"
    return Verdict(metric, names[0], names[1], difference, low, high, decision, text)


def verdicts(
    arms: Mapping[str, Mapping[str, Sequence[Estimate]]], better: Mapping[str, Better]
) -> list[Verdict]:
    """A verdict for every metric and pair of arms that both have it.

    Args:
        arms: name of the arm -> key of the metric -> scores, one a training seed.
        better: key of the metric -> which direction is better.
    """
    pairs = [
        (metric, a, b)
        for metric in better
        for a, b in combinations(arms, 2)
        if arms[a].get(metric) and arms[b].get(metric)
    ]
    return [
        verdict(arms[a][metric], arms[b][metric], better[metric], len(pairs), (a, b), metric)
        for metric, a, b in pairs
    ]


def advise(gap: float, a: Spread, b: Spread, comparisons: int = 1) -> Advice:
    """The seeds an arm, or the images a score, that would probably show a difference of `gap`.

    Each is advised with the other held fixed.
    """
    draws, seeds = _mean_square(a.draws, b.draws), _mean_square(a.seeds, b.seeds)
    known = a.seeds is not None and b.seeds is not None
    if gap <= 0:
        return Advice(None, None)
    num_seeds = None
    if known:
        deviation = math.sqrt(2 * (draws + seeds))
        counts = range(2, MOST_SEEDS + 1)
        at = bisect_left(counts, True, key=lambda k: _power(gap, deviation, k, comparisons))
        num_seeds = counts[at] if at < len(counts) else None
    count = min(a.num_seeds, b.num_seeds)
    freedom = 2 * (count - 1) if known else math.inf
    aim = gap / (_critical(comparisons, freedom) + float(norm.ppf(POWER)))
    left_for_draws = aim**2 * count / 2 - (seeds if known else 0.0)
    if left_for_draws <= 0:
        return Advice(num_seeds, None)
    images = math.ceil(min(a.num_images, b.num_images) * draws / left_for_draws)
    return Advice(num_seeds, images if images <= MOST_IMAGES else None)


def _power(gap: float, deviation: float, num_seeds: int, comparisons: int) -> bool:
    """Whether `num_seeds` an arm find `gap` with probability POWER."""
    freedom = 2 * (num_seeds - 1)
    shift = gap / deviation * math.sqrt(num_seeds)
    return bool(nct.sf(_critical(comparisons, freedom), freedom, shift) >= POWER)


def _welch(parts: Sequence[float], counts: Sequence[int]) -> float:
    """The degrees of freedom of Welch and Satterthwaite."""
    below = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    return sum(parts) ** 2 / below if below > 0 else math.inf


def _critical(comparisons: int, freedom: float) -> float:
    tail = (1 - LEVEL) / 2 / comparisons
    return float(norm.isf(tail) if math.isinf(freedom) else t.isf(tail, freedom))


def _mean_square(a: float | None, b: float | None) -> float:
    return ((a or 0.0) ** 2 + (b or 0.0) ** 2) / 2


def _remedy(advice: Advice, a: Spread, b: Spread) -> str:
    ways = []
    if advice.seeds is not None:
        more = max(advice.seeds - min(a.num_seeds, b.num_seeds), 1)
        ways.append(f"{more} more seed{'s' if more > 1 else ''}")
    if advice.num_images is not None:
        ways.append(f"N = {advice.num_images:,}")
    if not ways:
        return "the difference, if any, is out of reach of this budget"
    return f"about {' or '.join(ways)} would, if the difference is as large as it looks"


def _number(value: float) -> str:
    return f"{value:.3g}"
