"""From scores to verdicts: better, worse, or not shown.

Scores vary for two reasons, which stay apart:

* the draw of the generated images, known from the interval of a score;
* the training seed, known only if an arm has several.

With one seed per arm, a verdict is about these trained models; with two or more, about the methods.

All runs of a study start their images from the same noise. So part of the variation over draws is
common to them and cancels in a difference. The jackknife measures it: it gives the effect of
image i on both scores, and the variance of the difference is the variance of the remainder.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.stats import nct, norm, t

from sfumato.core.numbers import significant
from sfumato.metrics.estimate import Estimate, LeftOut, MetricError
from sfumato.runs.results import Better, Verdict

LEVEL = 0.95
POWER = 0.85
"""Probability that the advised number of seeds or images finds the difference.

A little above the promised 80 %, since the spread is itself an estimate."""
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
        num_seeds: number of training seeds.
        num_images: the smallest N of the scores.
        unshared: variance of one score over the draws, without the part that all seeds share
            because their images start from the same noise.
        variance_of_mean: over seeds and draws; treats draws as independent.
    """

    mean: float
    draws: float
    seeds: float | None
    num_seeds: int
    num_images: int
    unshared: float
    variance_of_mean: float

    @staticmethod
    def of(scores: Sequence[Estimate]) -> "Spread":
        """The spread of an arm's scores, one per training seed."""
        values = np.array([score.value for score in scores])
        count = len(scores)
        draws = float(np.mean([(score.standard_error or 0.0) ** 2 for score in scores]))
        unshared, seeds, variance = draws, None, draws
        if left_out := all_left_out(scores):
            pairs = [a.minus(b).variance / 2 for a, b in combinations(left_out, 2)]
            unshared = float(np.mean(pairs)) if pairs else draws
        if count > 1:
            between = float(values.var(ddof=1))
            seeds = math.sqrt(max(between - unshared, 0.0))
            variance = max(between, draws)
        return Spread(
            float(values.mean()),
            math.sqrt(draws),
            seeds,
            count,
            min(score.n for score in scores),
            unshared,
            variance / count,
        )


@dataclass(frozen=True)
class Difference:
    """The difference a - b of two arms, and the parts of its variance.

    With S seeds per arm and n images per score the variance is about (seeds + each) / S + common.
    `each` and `common` fall as 1 / n.

    Args:
        value: difference of the means over seeds.
        variance: of `value`.
        freedom: degrees of freedom of the variance.
        seeds: variance over training seeds, summed over both arms; None if unknown.
        each: variance over draws that is independent for every trained model.
        common: variance over draws that all seeds of an arm share and that does not cancel.
        num_seeds, num_images: the smaller of both arms.
        paired: whether the variance uses the noise that both arms share.
    """

    value: float
    variance: float
    freedom: float
    seeds: float | None
    each: float
    common: float
    num_seeds: int
    num_images: int
    paired: bool

    @staticmethod
    def of(a: Sequence[Estimate], b: Sequence[Estimate]) -> "Difference":
        """The difference of two arms' scores, one per training seed.

        With several seeds per arm the variance is Welch's. The noise that all seeds of an arm
        share does not show in their spread; the part that does not cancel against the other arm
        is added. With one seed the variance is that of the draws alone.

        Raises:
            MetricError: the scores are of different protocols.
        """
        known = sorted({score.protocol for score in [*a, *b] if score.protocol is not None})
        if len(known) > 1:
            raise MetricError(
                f"scores of different protocols ({known[0]}, {known[1]}) cannot be compared; score "
                "all by one protocol, for example by running the study or the evaluations again"
            )
        left, right = Spread.of(a), Spread.of(b)
        num_seeds = min(left.num_seeds, right.num_seeds)
        num_images = min(left.num_images, right.num_images)
        draws = _paired_variance(a, b)
        paired = draws is not None
        each, common = left.draws**2 + right.draws**2, 0.0
        if draws is not None and num_seeds > 1:
            each = left.unshared + right.unshared
            own = left.unshared / left.num_seeds + right.unshared / right.num_seeds
            common = max(draws - own, 0.0)
        elif draws is not None:
            each, common = 0.0, draws
        value = left.mean - right.mean
        if num_seeds == 1:
            unpaired = left.draws**2 / left.num_seeds + right.draws**2 / right.num_seeds
            variance = unpaired if draws is None else draws
            return Difference(
                value, variance, math.inf, None, each, common, num_seeds, num_images, paired
            )
        parts = [left.variance_of_mean, right.variance_of_mean]
        if draws is not None:
            parts = [
                float(np.var([score.value for score in arm], ddof=1)) / len(arm) for arm in (a, b)
            ]
        variance = max(sum(parts) + common, draws or 0.0)
        below = sum(part**2 / (len(arm) - 1) for part, arm in zip(parts, (a, b), strict=True))
        freedom = variance**2 / below if below > 0 else math.inf
        seeds = (left.seeds or 0.0) ** 2 + (right.seeds or 0.0) ** 2
        return Difference(
            value, variance, freedom, seeds, each, common, num_seeds, num_images, paired
        )


def all_left_out(scores: Sequence[Estimate]) -> list[LeftOut]:
    """Per-image jackknife terms of each score; empty unless all pair with each other."""
    found = [score.left_out for score in scores if score.left_out is not None]
    if len(found) < len(scores) or not all(found[0].pairs_with(other) for other in found[1:]):
        return []
    return found


def _paired_variance(a: Sequence[Estimate], b: Sequence[Estimate]) -> float | None:
    """Variance over draws, seeds fixed, of the difference of means; None without shared noise."""
    ours = all_left_out([*a, *b])
    if not ours:
        return None
    return LeftOut.mean(ours[: len(a)]).minus(LeftOut.mean(ours[len(a) :])).variance


@dataclass(frozen=True)
class Advice:
    """Numbers that would probably show a difference; None if out of reach or unknown."""

    seeds: int | None
    num_images: int | None


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
        a, b: the scores, one per training seed, all by one protocol.
        better: which direction of the metric is better.
        comparisons: number of verdicts from the same study. The intervals are Bonferroni's:
            all of them hold together with probability 95 %.
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
            f"{names[0]} is {decision} than {names[1]} by {significant(abs(difference))} "
            f"[{significant(a_interval[0])}, {significant(a_interval[1])}]"
        )
    else:
        text = (
            f"{names[0]} and {names[1]}: not shown with these data "
            f"({significant(difference)} [{significant(low)}, {significant(high)}]); "
            + _remedy(advise(abs(difference), found, comparisons), found)
        )
    if not with_seeds:
        text += "; one training seed, so this is about these models, not about the methods"
    return Verdict(
        metric=metric,
        a=names[0],
        b=names[1],
        difference=difference,
        low=low,
        high=high,
        verdict=decision,
        text=text,
        paired=found.paired,
    )


def verdicts(
    arms: Mapping[str, Mapping[str, Sequence[Estimate]]], better: Mapping[str, Better]
) -> list[Verdict]:
    """A verdict for every metric and pair of arms that both have it.

    Args:
        arms: name of the arm -> key of the metric -> scores, one per training seed.
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
    """The seeds per arm, or the images per score, that would probably show a difference of `gap`.

    Each number holds with the other fixed.
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
    """Whether `num_seeds` per arm find `gap` with probability POWER."""
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
