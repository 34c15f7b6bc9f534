"""Precision, recall, density and coverage: fidelity and diversity apart.

Each set is taken for the union of balls around its images, up to the k-th neighbour. Intervals are
over draws of fake images, the real ones fixed. Memory is O(N + M): features are read in blocks and
may be mapped from a file.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sfumato.metrics.blocks import Smallest, blocks, squared_distances
from sfumato.metrics.estimate import Estimate, LeftOut, MetricError, Strata, jackknifed, share_of
from sfumato.metrics.features import ImageFeatures
from sfumato.metrics.metric import Metric


@dataclass(frozen=True)
class Balls:
    """Of each image of a set, how near its nearest others of the set are.

    Args:
        radii: squared distances to the k-th and the (k+1)-th neighbour.
        neighbours: which images the k nearest are.
    """

    radii: Float[Tensor, "N 2"]
    neighbours: Int64[Tensor, "N k"]

    @staticmethod
    def of(features: Float[Tensor, "N d"], k: int) -> "Balls":
        """Raises MetricError when there are not more than k + 1 images."""
        if len(features) < k + 2:
            raise MetricError(
                f"balls up to neighbour {k} need at least {k + 2} images, got {len(features)}"
            )
        nearest = Smallest(len(features), k + 1)
        for at, rows in blocks(features):
            for others, columns in blocks(features):
                between = squared_distances(rows, columns)
                if at[0] == others[0]:
                    between.fill_diagonal_(math.inf)
                nearest.see(at, others, between)
        return Balls(nearest.values[:, k - 1 :], nearest.columns[:, :k])


def precision_recall(
    fake: Float[Tensor, "N d"],
    real: Float[Tensor, "M d"],
    k: int = 3,
    strata: Strata | None = None,
) -> dict[str, Estimate]:
    """Precision: fake images inside a real ball. Recall: real images inside a fake ball.

    A jackknife overstates the variance of recall, a statistic of nearest neighbours, 2.3 to 3.7
    times (docs/results/statistics.md). Its second-order part, found by leaving out all pairs, was
    always more than the half that `LeftOut` takes off at most; so that half is.

    Source: Kynkaanniemi et al. 2019 (Improved precision and recall). Cost: O((N + M)^2 d).
    Raises:
        MetricError: fewer than k + 2 images on a side.
    """
    fakes, reals = Balls.of(fake, k), Balls.of(real, k)
    inside = torch.zeros(len(fake), dtype=torch.bool)
    covered = torch.zeros((), dtype=torch.int64)
    left_out = torch.zeros(len(fake), dtype=torch.int64)
    for at, rows in blocks(real):
        balls = torch.zeros(len(at), dtype=torch.int64)  # that hold each real image
        inner, outer = [], []
        for others, columns in blocks(fake):
            between = squared_distances(rows, columns)
            inside[others] |= (between < reals.radii[at, :1]).any(0)
            within = between < fakes.radii[others, 0]
            # Without fake j its ball is gone, and those that counted it among their k nearest grow.
            grown = ~within & (between < fakes.radii[others, 1])
            balls += within.sum(1)
            inner.append(_pairs(within, others, balls < 2))
            outer.append(_pairs(grown, others, balls < 2))
        covered += (balls > 0).sum()
        left_out += (balls > 0).sum() + _change(balls, torch.cat(inner), torch.cat(outer), fakes)
    without = LeftOut(left_out.double() / len(real), second=0.5, strata=strata)
    recall = jackknifed(int(covered) / len(real), without, 0.0, 1.0)
    return {"precision": share_of(inside, strata), "recall": recall}


def _pairs(
    found: Bool[Tensor, "n m"], columns: Int64[Tensor, " m"], rows: Bool[Tensor, " n"]
) -> Int64[Tensor, "_ 2"]:
    """The row and the column of everything that was found in some of the rows."""
    i, j = (found & rows[:, None]).nonzero().T
    return torch.stack([i, columns[j]], dim=1)


def _change(
    balls: Int64[Tensor, " n"],
    inner: Int64[Tensor, "_ 2"],
    outer: Int64[Tensor, "_ 2"],
    fakes: Balls,
) -> Int64[Tensor, " N"]:
    """How many more of n real images are held without each of the fake images.

    Args:
        balls: how many hold each real image; it matters where that is one or none.
        inner: pairs of a real image and a fake one whose ball holds it.
        outer: pairs of a real image and a fake one whose ball would, if it reached one neighbour
            farther.
        fakes: the fake images.
    """
    count = len(fakes.radii)
    row, ball = outer.T
    grown = (row[:, None] * count + fakes.neighbours[ball]).unique()  # held without that neighbour
    row, ball = inner.T
    lost = (row * count + ball)[balls[row] == 1]
    lost = lost[~torch.isin(lost, grown)]
    gained = grown[balls[grown // count] == 0]
    change: Tensor = torch.bincount(gained % count, minlength=count)
    change -= torch.bincount(lost % count, minlength=count)
    return change


def density_coverage(
    fake: Float[Tensor, "N d"],
    real: Float[Tensor, "M d"],
    k: int = 5,
    strata: Strata | None = None,
) -> dict[str, Estimate]:
    """Density: real balls that hold a fake image, over k. Coverage: real balls that hold any.

    Source: Naeem et al. 2020 (Reliable fidelity and diversity metrics). Cost: O((N + M) M d).
    Raises:
        MetricError: fewer than k + 2 real images, or fewer than 2 fake ones.
    """
    if len(fake) < 2:
        raise MetricError(f"density and coverage need at least 2 fake images, got {len(fake)}")
    reals = Balls.of(real, k)
    n = len(fake)
    depth = torch.zeros(n, dtype=torch.int64)
    lost = torch.zeros(n, dtype=torch.int64)
    covered, by_two = 0, []
    for at, rows in blocks(real):
        hits = torch.zeros(len(at), dtype=torch.int64)
        found = []
        for others, columns in blocks(fake):
            within = squared_distances(rows, columns) < reals.radii[at, :1]
            hits += within.sum(1)
            depth[others] += within.sum(0)
            found.append(_pairs(within, others, hits < 3))
        covered += int((hits > 0).sum())
        row, held = torch.cat(found).T
        lost += held[hits[row] == 1].bincount(minlength=n)
        by_two.append(held[row.argsort(stable=True)][hits[row.sort().values] == 2].reshape(-1, 2))
    counts = depth.double() / k
    without = LeftOut((counts.sum() - counts) / (n - 1), strata=strata)
    density = jackknifed(float(counts.mean()), without, least=0.0)
    without = LeftOut((covered - lost).double() / len(real), strata=strata)
    # Of second order are the balls that hold two fake images. A third of that is subtracted: orders
    # alternate in sign, and the interval then held the truth at its nominal rate.
    together = np.unique(torch.cat(by_two).numpy(), axis=0, return_counts=True)[1]
    pairs = float(np.square(together).sum()) / len(real) ** 2
    second = pairs / max(without.variance, pairs) / 3 if pairs else 0.0
    coverage = jackknifed(covered / len(real), replace(without, second=second), 0.0, 1.0)
    return {"density": density, "coverage": coverage}


def _precision_recall(fake: ImageFeatures, real: ImageFeatures) -> dict[str, Estimate]:
    return precision_recall(fake.vectors, real.vectors, strata=fake.strata)


def _density_coverage(fake: ImageFeatures, real: ImageFeatures) -> dict[str, Estimate]:
    return density_coverage(fake.vectors, real.vectors, strata=fake.strata)


def _metric(
    key: str, pair: Callable[[ImageFeatures, ImageFeatures], dict[str, Estimate]]
) -> Metric:
    """A metric that is computed together with another one."""
    return Metric(
        key=key,
        label=key.capitalize(),
        better="higher",
        needs=frozenset({"features"}),
        compute=lambda fake, real: fake.together(pair, real)[key],
    )


PRECISION = _metric("precision", _precision_recall)
RECALL = _metric("recall", _precision_recall)
DENSITY = _metric("density", _density_coverage)
COVERAGE = _metric("coverage", _density_coverage)
