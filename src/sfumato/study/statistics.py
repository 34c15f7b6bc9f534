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

from scipy.stats import nct, norm, t

from sfumato.metrics.estimate import Estimate
from sfumato.study.difference import Difference

Better = Literal["lower", "higher"]

LEVEL = 0.95
POWER = 0.85
"""With what probability an advised number of seeds or images finds the difference (with a little
more than the 80 % that is promised, since the spread is itself an estimate)."""
MOST_SEEDS = 200
MOST_IMAGES = 10_000_000


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
        paired: whether both arms' images start from the same noise and the interval knows it.
    """

    metric: str
    a: str
    b: str
    difference: float
    low: float
    high: float
    verdict: Literal["better", "worse", "not shown"]
    text: str
    paired: bool = False

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
    Raises:
        MetricError: the scores are of different protocols.
    """
    found = Difference.of(a, b)
    difference, with_seeds = found.value, found.seeds is not None
    reach = _critical(comparisons, found.freedom) * math.sqrt(found.variance)
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
            + _remedy(advise(abs(difference), found, comparisons), found)
        )
    if not with_seeds:
        text += "; one training seed, so this is about these models, not about the methods"
    return Verdict(metric, *names, difference, low, high, decision, text, found.paired)


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


def advise(gap: float, found: Difference, comparisons: int = 1) -> Advice:
    """The seeds an arm, or the images a score, that would probably show a difference of `gap`.

    Each is advised with the other held fixed.
    """
    if gap <= 0:
        return Advice(None, None)
    num_seeds = None
    if found.seeds is not None:
        each = found.seeds + found.each
        counts = range(2, MOST_SEEDS + 1)
        at = bisect_left(
            counts, True, key=lambda k: _power(gap, each, found.common, k, comparisons)
        )
        num_seeds = counts[at] if at < len(counts) else None
    freedom = math.inf if found.seeds is None else 2 * (found.num_seeds - 1)
    aim = gap / (_critical(comparisons, freedom) + float(norm.ppf(POWER)))
    left_for_draws = aim**2 - (found.seeds or 0.0) / found.num_seeds
    if left_for_draws <= 0:
        return Advice(num_seeds, None)
    draws = found.each / found.num_seeds + found.common
    images = math.ceil(found.num_images * draws / left_for_draws)
    return Advice(num_seeds, images if images <= MOST_IMAGES else None)


def _power(gap: float, each: float, common: float, num_seeds: int, comparisons: int) -> bool:
    """Whether `num_seeds` an arm find `gap` with probability POWER."""
    part = each / num_seeds
    variance = part + common
    freedom = 2 * (num_seeds - 1) * (variance / part) ** 2 if part > 0 else math.inf
    reach = _critical(comparisons, freedom)
    if math.isinf(freedom) or freedom > 1e6:
        return bool(norm.sf(reach - gap / math.sqrt(variance)) >= POWER) if variance > 0 else True
    return bool(nct.sf(reach, freedom, gap / math.sqrt(variance)) >= POWER)


def _critical(comparisons: int, freedom: float) -> float:
    tail = (1 - LEVEL) / 2 / comparisons
    return float(norm.isf(tail) if math.isinf(freedom) else t.isf(tail, freedom))


def _remedy(advice: Advice, found: Difference) -> str:
    ways = []
    if advice.seeds is not None:
        more = max(advice.seeds - found.num_seeds, 1)
        ways.append(f"{more} more seed{'s' if more > 1 else ''}")
    if advice.num_images is not None:
        ways.append(f"N = {advice.num_images:,}")
    if not ways:
        return "the difference, if any, is out of reach of this budget"
    return f"about {' or '.join(ways)} would, if the difference is as large as it looks"


def _number(value: float) -> str:
    return f"{value:.3g}"
