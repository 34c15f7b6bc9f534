"""Fréchet distances with intervals: an exact jackknife, and the distance at N → ∞."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics.estimate import Estimate, LeftOut, MetricError, Strata, interaction, jackknifed
from sfumato.metrics.frechet import (
    ROUNDING,
    FrechetReference,
    Moments,
    check_features,
    frechet_distance,
)
from sfumato.metrics.metric import Metric

PAIRS = 2_000
"""Pairs of images left out together, to estimate the bias of the jackknife."""
ROWS = 500
"""Images whose rows in the eigenvectors' basis are held at a time."""


def frechet_estimate(
    fake: Float[Tensor, "N d"],
    reference: FrechetReference,
    strata: Strata | None = None,
) -> Estimate:
    """The Fréchet distance with an interval over draws of the N fake images.

    What the interval is an interval of: the expectation of this very distance over new draws of N
    fake images from the same source, the reference and N held fixed. It does not contain the
    distance at another N (the bias of a Fréchet distance at N is part of the value, and of the
    floor at the same N), nor the spread over references or training seeds. It is centred on the
    value: the percentile bootstrap is not, since resampling adds the bias a second time.

    Its width is a delete-one jackknife, exact and for all images: leaving one out changes
    L^T C_f L by a matrix of rank one, and the change of the sum of square roots of eigenvalues is
    an integral of a logarithm of a scalar (`Jackknife._root_change`). The jackknife's variance
    counts the second-order part of the statistic twice (Efron & Stein 1981); that part is
    estimated from pairs left out together and subtracted: once for N of at least twice the
    rank, half of it below, where leaving out an image also changes the rank and the expansion
    holds only roughly. Coverage is proved by simulation in docs/results/statistics.md.

    Args:
        fake: features of the fake images.
        reference: the other side.
        strata: the classes of the images when their numbers were fixed in advance; the interval
            is then over draws with the same numbers.
    Cost: that of the distance with eigenvectors, and O(N d^2) more. Memory: O(d^2 + N); `fake`
    is read in blocks and may be mapped from a file.
    Raises:
        MetricError: fewer than two images, or features that are not finite.
    """
    n = len(fake)
    if n < 4:
        return Estimate(frechet_distance(fake, reference), None, None, n, None)
    check_features(fake, "fake")
    distances = Jackknife(fake, reference)
    one = torch.cat([distances.one(rows) for rows in torch.split(torch.arange(n), ROWS)])
    g = generator("frechet pairs")
    i = torch.randint(n, (PAIRS,), generator=g)
    j = (i + 1 + torch.randint(n - 1, (PAIRS,), generator=g)) % n
    pairs = zip(torch.split(i, ROWS), torch.split(j, ROWS), strict=True)
    both = torch.cat([distances.two(a, b) for a, b in pairs])
    left_out = LeftOut(
        one,
        interaction(distances.whole, one[i], one[j], both, n),
        share=1.0 if n >= 2 * distances.rank else 0.5,
        strata=strata,
    )
    return jackknifed(max(float(distances.whole), 0.0), left_out, least=0.0)


class Jackknife:
    """A Fréchet distance and what it is with one image, or two, left out.

    Let y_i be the centred features and C their covariance. `_rows` are the y_i L in the basis of
    the eigenvectors of L^T C L, whose eigenvalues are `_values`.
    """

    def __init__(self, fake: Float[Tensor, "N d"], reference: FrechetReference) -> None:
        self.n = len(fake)
        self._fake, self._reference = fake, reference
        moments = Moments.of(fake)
        self._mean = moments.mean
        self._difference = moments.mean - reference.mean
        if self.n > reference.factor.shape[1]:
            values, vectors = torch.linalg.eigh(reference.inner(moments.covariance))
            self._projection, self._whitened = reference.factor @ vectors, None
        else:
            projected = (fake.double() - moments.mean) @ reference.factor
            values, vectors = torch.linalg.eigh(projected @ projected.T / (self.n - 1))
            self._projection = reference.factor
            self._whitened = vectors * (values.clamp(min=0) * (self.n - 1)).sqrt()
        self._kept = values > ROUNDING * values[-1]
        self._values = values[self._kept]
        self._root = self._values.sqrt().sum()
        self._s, self._weights = self._nodes()
        self._scatter = moments.trace * (self.n - 1)
        self.whole = self._distance(self._difference, self._scatter / (self.n - 1), self._root)

    @property
    def rank(self) -> int:
        """Of L^T C L."""
        return len(self._values)

    def one(self, i: Int64[Tensor, " K"]) -> Float[Tensor, " K"]:
        """Image i left out: (n - 2) C' = (n - 1) C - n / (n - 1) y_i y_i^T."""
        n = self.n
        centred, rows = self._look(i)
        lost = centred.square().sum(1) * (n / (n - 1))
        ratio = 1 - self._resolvents(rows.square()) * (n / (n - 1))
        root = math.sqrt((n - 1) / (n - 2)) * (self._root + self._root_change(ratio))
        trace = (self._scatter - lost) / (n - 2)
        return self._distance(self._difference - centred / (n - 1), trace, root)

    def two(self, i: Int64[Tensor, " K"], j: Int64[Tensor, " K"]) -> Float[Tensor, " K"]:
        """Images i and j left out: (n - 3) C' = (n - 1) C - Y B Y^T with B = 1 + 11^T / (n - 2)."""
        n, b = self.n, 1 / (self.n - 2)
        (first, first_rows), (second, second_rows) = self._look(i), self._look(j)
        own_i, own_j = (self._resolvents(rows.square()) for rows in (first_rows, second_rows))
        cross = self._resolvents(first_rows * second_rows)
        determinant = own_i * own_j - cross.square()
        ratio = 1 - (1 + b) * (own_i + own_j) - 2 * b * cross + (1 + 2 * b) * determinant
        root = math.sqrt((n - 1) / (n - 3)) * (self._root + self._root_change(ratio))
        both = first + second
        lost = first.square().sum(1) + second.square().sum(1) + b * both.square().sum(1)
        trace = (self._scatter - lost) / (n - 3)
        return self._distance(self._difference - both / (n - 2), trace, root)

    def _look(self, at: Int64[Tensor, " K"]) -> tuple[Float[Tensor, "K d"], Float[Tensor, "K r"]]:
        """The centred features of some images, and their rows."""
        centred = self._fake[at].double() - self._mean
        rows = centred @ self._projection if self._whitened is None else self._whitened[at]
        return centred, rows[:, self._kept]

    def _distance(self, difference: Tensor, trace: Tensor | float, root: Tensor) -> Tensor:
        gap: Tensor = difference.square().sum(-1)
        return gap + trace + self._reference.trace - 2 * root

    def _nodes(self) -> tuple[Tensor, Tensor]:
        """Nodes and weights of (1 / pi) int_0^inf f(u^2) du with u = e^v, by the trapezoidal rule.

        The integrand is analytic for |Im v| < pi / 2 and falls off as e^-|v|, so a step of 1/2
        leaves a relative error of about e^(-2 pi^2), far below what a variance needs.
        """
        if self.rank == 0:
            return self._values, self._values
        low, high = (0.5 * math.log(float(v)) for v in (self._values[0], self._values[-1]))
        v = torch.arange(low - 17, high + 17, 0.5, dtype=torch.float64)
        return (2 * v).exp(), v.exp() * (0.5 / math.pi)

    def _resolvents(self, products: Float[Tensor, "K rank"]) -> Float[Tensor, "K Q"]:
        """sum_k products_k / (lambda_k + s) / (n - 1) at the nodes s."""
        sums: Tensor = products @ (1 / (self._values[:, None] + self._s))
        return sums / (self.n - 1)

    def _root_change(self, ratio: Float[Tensor, "K Q"]) -> Float[Tensor, " K"]:
        """sum sqrt(lambda') - sum sqrt(lambda), from det(M' + s) / det(M + s) at the nodes s.

        From sqrt(x) = (1 / pi) int_0^inf (1 - s / (x + s)) s^(-1/2) ds, by parts.
        """
        change: Tensor = ratio.clamp(min=1e-28).log() @ self._weights
        return change


LEAST_PER_DIMENSION = 4
"""Images per side and feature, below which the bias is not yet a straight line in 1 / N."""
HALVINGS = 4
"""Random divisions into halves, of which the mean is taken."""


def extrapolated_distance(
    fake: Float[Tensor, "N d"],
    real: Float[Tensor, "M d"],
    strata: Strata | None = None,
) -> Estimate:
    """Twice the distance of all images less the mean distance between halves.

    The bias of a Fréchet distance is a / N + b / M to first order; halving both sides doubles it,
    so this takes it off. What is left is of order (d / N)^2. The value can be negative, as every
    estimate of zero without bias.

    The idea of extrapolating in 1 / N: Chong & Forsyth 2020 (Effectively unbiased FID), there by
    a fit over many N with a fixed reference. The interval is over draws of fake images: that of
    the distance, widened by the spread over divisions.

    Args:
        fake, real: features.
        strata: as for `frechet_estimate`.
    Raises:
        MetricError: fewer than `LEAST_PER_DIMENSION` images per feature on a side.
    """
    n, m, d = len(fake), len(real), fake.shape[1]
    if min(n, m) < LEAST_PER_DIMENSION * d:
        raise MetricError(
            f"extrapolating a Fréchet distance of {d} features needs at least "
            f"{LEAST_PER_DIMENSION * d} images a side, got {n} and {m}; below that its bias is "
            "not proportional to 1 / N"
        )
    whole = frechet_estimate(fake, FrechetReference.of(real), strata)
    halves = []
    for k in range(HALVINGS):
        random = generator("halves", k)
        ours, theirs = (torch.randperm(count, generator=random) for count in (n, m))
        pairs = zip(ours.tensor_split(2), theirs.tensor_split(2), strict=True)
        distances = [frechet_distance(fake[i], FrechetReference.of(real[j])) for i, j in pairs]
        halves.append(sum(distances) / 2)
    values = torch.tensor(halves, dtype=torch.float64)
    assert whole.left_out is not None
    # To first order an image moves the extrapolated value as much as the distance itself.
    left_out = replace(whole.left_out, other=float(values.var()) / HALVINGS)
    return jackknifed(2 * whole.value - float(values.mean()), left_out)


FRECHET_DISTANCE = Metric(
    key="frechet_distance",
    label="Fréchet distance",
    better="lower",
    needs=frozenset({"moments"}),
    compute=lambda fake, real: frechet_estimate(fake.vectors, real.frechet, fake.strata),
    aliases=("fid", "fd", "frechet"),
)
FRECHET_INFINITY = Metric(
    key="frechet_infinity",
    label="Fréchet distance, N → ∞",
    better="lower",
    needs=frozenset({"features"}),
    compute=lambda fake, real: extrapolated_distance(fake.vectors, real.vectors, fake.strata),
    least_per_dimension=LEAST_PER_DIMENSION,
    aliases=("fid_infinity",),
)
