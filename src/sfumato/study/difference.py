"""The difference of two arms' scores, and the sources of its spread.

Scores vary for two reasons, which are kept apart: the draw of the generated images, and the
training seed. All runs of a study start their images from the same noise, so a part of the first is
common to them and cancels in a difference. It is measured, not assumed: the jackknife says what
image i does to either score, and the spread of the difference is that of what is left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sfumato.metrics.estimate import Estimate, LeftOut, MetricError


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
        unshared: variance of one score over the draws, without the part that all seeds have in
            common because their images start from the same noise.
        variance_of_mean: over seeds and draws, the latter taken for independent.
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
        """The spread of an arm's scores, one a training seed."""
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
    """The difference a - b of two arms, and what its variance consists of.

    With S seeds an arm and n images a score its variance is about (seeds + each) / S + common;
    `each` and `common` fall as 1 / n.

    Args:
        value: of the difference of the means over seeds.
        variance: of that.
        freedom: degrees of freedom of the variance.
        seeds: variance over training seeds, of both arms together; None where not known.
        each: variance over draws that is anew for every trained model.
        common: variance over draws that is the same for all seeds of an arm and does not cancel.
        num_seeds, num_images: the smaller of both arms'.
        paired: whether the noise that both share was used.
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
        """Of two arms' scores, one a training seed.

        With several seeds an arm the variance is Welch's; what all seeds of an arm have in common
        (their noise) does not show in the spread over seeds, and is added as far as it does not
        cancel against the other arm. With one seed it is that of the draws alone.

        Raises:
            MetricError: the scores are of different protocols.
        """
        _check_protocols([*a, *b])
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
    """What each image does to each of the scores; empty unless all pair with each other."""
    found = [score.left_out for score in scores if score.left_out is not None]
    if len(found) < len(scores) or not all(found[0].pairs_with(other) for other in found[1:]):
        return []
    return found


def _paired_variance(a: Sequence[Estimate], b: Sequence[Estimate]) -> float | None:
    """Over draws, seeds fixed, of the difference of means; None where noise is not shared."""
    ours = all_left_out([*a, *b])
    if not ours:
        return None
    return LeftOut.mean(ours[: len(a)]).minus(LeftOut.mean(ours[len(a) :])).variance


def _check_protocols(scores: Sequence[Estimate]) -> None:
    known = sorted({score.protocol for score in scores if score.protocol is not None})
    if len(known) > 1:
        raise MetricError(
            f"scores of different protocols ({known[0]}, {known[1]}) cannot be compared; score all "
            "by one protocol, for example by running the study or the evaluations again"
        )
