"""Precision, recall, density and coverage: fidelity and diversity told apart.

Each set is taken for the union of balls around its images, up to the k-th neighbour. Intervals are
over draws of fake images, the real ones fixed.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sfumato.metrics.estimate import Estimate, MetricError, jackknifed, share_of
from sfumato.metrics.jackknife import LeftOut, Strata

ROWS = 500


@dataclass(frozen=True)
class Manifold:
    """A set of features with the distances to their nearest others of the set.

    Args:
        features: [N, d], float64.
        radii: to the k-th and the (k+1)-th neighbour.
        neighbours: which images the k nearest are.
    """

    features: Float[Tensor, "N d"]
    radii: Float[Tensor, "N 2"]
    neighbours: Int64[Tensor, "N k"]

    @staticmethod
    def of(features: Float[Tensor, "N d"], k: int) -> "Manifold":
        """Raises MetricError when there are not more than k + 1 images."""
        if len(features) < k + 2:
            raise MetricError(
                f"balls up to neighbour {k} need at least {k + 2} images, got {len(features)}"
            )
        x = features.double()
        distances, indices = [], []
        for rows in torch.split(torch.arange(len(x)), ROWS):
            between = torch.cdist(x[rows], x)
            between[torch.arange(len(rows)), rows] = math.inf
            nearest = between.topk(k + 1, largest=False)
            distances.append(nearest.values)
            indices.append(nearest.indices)
        return Manifold(x, torch.cat(distances)[:, k - 1 :], torch.cat(indices)[:, :k])


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
    fakes, reals = Manifold.of(fake, k), Manifold.of(real, k)
    inside = []
    covered = torch.zeros((), dtype=torch.int64)
    left_out = torch.zeros(len(fake), dtype=torch.int64)
    for rows in torch.split(fakes.features, ROWS):
        between = torch.cdist(rows, reals.features)
        inside.append((between < reals.radii[:, 0]).any(1))
    for rows in torch.split(reals.features, ROWS):
        between = torch.cdist(rows, fakes.features)
        within = between < fakes.radii[:, 0]
        covered += within.any(1).sum()
        # Without fake j its ball is gone, and those that counted it among their k nearest grow.
        grown = (~within & (between < fakes.radii[:, 1])).int()
        balls = within.sum(1, keepdim=True) - within.int()
        for column in fakes.neighbours.T:
            balls.index_add_(1, column, grown.to(balls.dtype))
        left_out += (balls > 0).sum(0)
    without = LeftOut(left_out.double() / len(real), second=0.5, strata=strata)
    recall = jackknifed(int(covered) / len(real), without, 0.0, 1.0)
    return {"precision": share_of(torch.cat(inside), strata), "recall": recall}


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
    reals = Manifold.of(real, k)
    fakes = fake.double()
    n = len(fake)
    depth = torch.zeros(n, dtype=torch.int64)
    lost = torch.zeros(n, dtype=torch.int64)
    covered, by_two = 0, []
    for rows, radii in zip(
        torch.split(reals.features, ROWS), torch.split(reals.radii[:, :1], ROWS), strict=True
    ):
        within = torch.cdist(rows, fakes) < radii
        hits = within.sum(1)
        depth += within.sum(0)
        covered += int((hits > 0).sum())
        lost += within[hits == 1].sum(0)
        by_two.append(within[hits == 2].nonzero()[:, 1].reshape(-1, 2))
    counts = depth.double() / k
    without = LeftOut((counts.sum() - counts) / (n - 1), strata=strata)
    density = jackknifed(float(counts.mean()), without, least=0.0)
    without = LeftOut((covered - lost).double() / len(real), strata=strata)
    # Of second order are the balls that hold two fake images. A third of that is taken off: orders
    # alternate in sign, and the interval then held the truth at its nominal rate.
    together = np.unique(torch.cat(by_two).numpy(), axis=0, return_counts=True)[1]
    pairs = float(np.square(together).sum()) / len(real) ** 2
    second = pairs / max(without.variance, pairs) / 3 if pairs else 0.0
    coverage = jackknifed(covered / len(real), replace(without, second=second), 0.0, 1.0)
    return {"density": density, "coverage": coverage}
