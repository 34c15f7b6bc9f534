"""The Fréchet distance between two sets of features, with an interval.

FD = |mu_f - mu_r|^2 + tr C_f + tr C_r - 2 tr (C_f C_r)^(1/2), with unbiased covariances. It is
called FID when the features are those of the reference Inception network, and only then.

Sources: Fréchet 1957; Heusel et al. 2017 (FID). With L L^T = C_r, the trace of the square root is
the sum of the square roots of the eigenvalues of the symmetric L^T C_f L, which is also the nuclear
norm of the product of the centred features. No square root of a matrix is taken, and rounding can
make nothing negative or complex.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics.estimate import Estimate, MetricError, with_standard_error
from sfumato.metrics.jackknife import second_order_variance, stratified_variance

ROUNDING = 1e-13
"""Eigenvalues below this share of the largest are rounding errors of zero."""
PAIRS = 2_000
"""Pairs of images left out together, to estimate the bias of the jackknife."""


@dataclass(frozen=True)
class FrechetReference:
    """The side of a Fréchet distance that stays fixed.

    Args:
        mean: of the features.
        factor: L with L L^T the covariance; r = d (Cholesky) where that has full rank, less
            otherwise.
        trace: of the covariance.
        n: the number of images.
    """

    mean: Float[Tensor, " d"]
    factor: Float[Tensor, "d r"]
    trace: float
    n: int

    @staticmethod
    def of(features: Float[Tensor, "N d"]) -> "FrechetReference":
        """The reference made of `features`.

        Raises:
            MetricError: fewer than two images, or features that are not finite.
        """
        _check(features, "reference")
        x = features.double()
        n, d = x.shape
        centred = x - x.mean(0)
        if n <= d:
            return FrechetReference(
                x.mean(0),
                centred.T / math.sqrt(n - 1),
                float(centred.square().sum() / (n - 1)),
                n,
            )
        return FrechetReference.of_moments(x.mean(0), centred.T @ centred / (n - 1), n)

    @staticmethod
    def of_moments(
        mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"], n: int
    ) -> "FrechetReference":
        """The reference of known mean and covariance, for example a published one."""
        mean, covariance = mean.double(), covariance.double()
        trace = float(covariance.trace())
        factor, failed = torch.linalg.cholesky_ex(covariance)
        smallest = factor.diagonal().min() if failed == 0 else torch.zeros(())
        if smallest <= math.sqrt(ROUNDING * max(trace, 1e-300)):
            values, vectors = torch.linalg.eigh(covariance)
            kept = values > ROUNDING * values[-1]
            factor = vectors[:, kept] * values[kept].sqrt()
        return FrechetReference(mean, factor, trace, n)


def frechet_distance(fake: Float[Tensor, "N d"], reference: FrechetReference) -> float:
    """The Fréchet distance, without an interval.

    Cost: O(N d^2) and one symmetric eigenvalue problem of size min(N, d), in float64.
    Raises:
        MetricError: fewer than two images, or features that are not finite.
    """
    _check(fake, "fake")
    x = fake.double()
    mean = x.mean(0)
    centred = x - mean
    n, r = len(x), reference.factor.shape[1]
    if n > r:
        return frechet_distance_of_moments(mean, centred.T @ centred / (n - 1), reference)
    projected = centred @ reference.factor
    trace = float(centred.square().sum() / (n - 1))
    return _distance(mean, trace, projected @ projected.T / (n - 1), reference)


def frechet_distance_of_moments(
    mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"], reference: FrechetReference
) -> float:
    """The Fréchet distance of known mean and unbiased covariance, such as streamed `Moments`."""
    covariance = covariance.double()
    inner = reference.factor.T @ covariance @ reference.factor
    return _distance(mean.double(), float(covariance.trace()), inner, reference)


def _distance(mean: Tensor, trace: float, inner: Tensor, reference: FrechetReference) -> float:
    """From the mean, the trace of the covariance, and a matrix with the eigenvalues of C_f C_r."""
    values = torch.linalg.eigvalsh(inner) if inner.numel() else inner.new_zeros(1)
    root = float(values[values > ROUNDING * values[-1]].sqrt().sum())
    gap = float((mean - reference.mean).square().sum())
    return max(gap + trace + reference.trace - 2 * root, 0.0)


def frechet_estimate(
    fake: Float[Tensor, "N d"],
    reference: FrechetReference,
    strata: Int64[Tensor, " N"] | None = None,
) -> Estimate:
    """The Fréchet distance with an interval over draws of the N fake images.

    What the interval is an interval of: the expectation of this very distance over new draws of N
    fake images from the same source, the reference and N held fixed. It does not contain the
    distance at another N (the bias of a Fréchet distance at N is part of the value, and of the
    floor at the same N), nor the spread over references or training seeds. It is centred on the
    value: the percentile bootstrap is not, since resampling adds the bias a second time.

    Its width is a delete-one jackknife, exact and for all images: leaving one out changes
    L^T C_f L by a matrix of rank one, and the change of the sum of square roots of eigenvalues is
    an integral of a logarithm of a scalar (`_Spectrum.root_change`). The jackknife's variance
    counts the second-order part of the statistic twice (Efron & Stein 1981); that part is
    estimated from pairs left out together and taken off again: once for N of at least twice the
    rank, half of it below, where leaving out an image also changes the rank and the expansion
    holds only roughly. Coverage is proved by simulation in tests/metrics/test_coverage.py.

    Args:
        fake: features of the fake images.
        reference: the other side.
        strata: the classes of the images when their numbers were fixed in advance; the interval
            is then over draws with the same numbers.
    Cost: that of the distance with eigenvectors, and O(N d) more.
    Raises:
        MetricError: fewer than two images, or features that are not finite.
    """
    value = frechet_distance(fake, reference)
    n = len(fake)
    if n < 4:
        return Estimate(value, None, None, n, None)
    left_out = _LeftOut(fake.double(), reference)
    one = left_out.one()
    variance = stratified_variance(one, strata)
    g = generator("frechet pairs")
    i = torch.randint(n, (PAIRS,), generator=g)
    j = (i + 1 + torch.randint(n - 1, (PAIRS,), generator=g)) % n
    share = 1.0 if n >= 2 * left_out.spectrum.rank else 0.5
    doubled = second_order_variance(left_out.whole, one[i], one[j], left_out.two(i, j), n)
    # The second-order part is at most all of the variance, which the jackknife then doubles.
    variance = max(variance - share * doubled, variance / 2)
    return with_standard_error(value, math.sqrt(variance), n, least=0.0)


class _Spectrum:
    """The eigenvalues of Z^T Z / (n - 1), and the rows of Z in the eigenvectors' basis."""

    def __init__(self, projected: Float[Tensor, "N r"]) -> None:
        n, r = projected.shape
        self.n = n
        if n > r:
            values, vectors = torch.linalg.eigh(projected.T @ projected / (n - 1))
            rows = projected @ vectors
        else:
            values, vectors = torch.linalg.eigh(projected @ projected.T / (n - 1))
            rows = vectors * (values.clamp(min=0) * (n - 1)).sqrt()
        kept = values > ROUNDING * values[-1]
        self.values, self.rows = values[kept], rows[:, kept]
        self.rank = int(kept.sum())
        self.root = self.values.sqrt().sum()
        self._s, self._weights = self._nodes()

    def _nodes(self) -> tuple[Tensor, Tensor]:
        """Nodes and weights of (1 / pi) int_0^inf f(u^2) du with u = e^v, by the trapezoidal rule.

        The integrand is analytic for |Im v| < pi / 2 and falls off as e^-|v|, so a step of 1/2
        leaves a relative error of about e^(-2 pi^2), far below what a variance needs.
        """
        if self.rank == 0:
            return self.values, self.values
        low, high = (0.5 * math.log(float(v)) for v in (self.values[0], self.values[-1]))
        v = torch.arange(low - 17, high + 17, 0.5, dtype=torch.float64, device=self.values.device)
        return (2 * v).exp(), v.exp() * (0.5 / math.pi)

    def resolvents(self, products: Float[Tensor, "K rank"]) -> Float[Tensor, "K Q"]:
        """sum_k products_k / (lambda_k + s) / (n - 1) at the nodes s."""
        sums: Tensor = products @ (1 / (self.values[:, None] + self._s))
        return sums / (self.n - 1)

    def root_change(self, ratio: Float[Tensor, "K Q"]) -> Float[Tensor, " K"]:
        """sum sqrt(lambda') - sum sqrt(lambda), from det(M' + s) / det(M + s) at the nodes s.

        From sqrt(x) = (1 / pi) int_0^inf (1 - s / (x + s)) s^(-1/2) ds, by parts.
        """
        change: Tensor = ratio.clamp(min=1e-28).log() @ self._weights
        return change


class _LeftOut:
    """The Fréchet distances with one image, or two, left out."""

    def __init__(self, fake: Float[Tensor, "N d"], reference: FrechetReference) -> None:
        self.n = len(fake)
        self.reference = reference
        self.difference = fake.mean(0) - reference.mean
        self.centred = fake - fake.mean(0)
        self.squares = self.centred.square().sum(1)
        self.spectrum = _Spectrum(self.centred @ reference.factor)
        self.own = self.spectrum.resolvents(self.spectrum.rows.square())
        self.whole = self._distance(
            self.difference, self.squares.sum() / (self.n - 1), self.spectrum.root
        )

    def _distance(self, difference: Tensor, trace: Tensor, root: Tensor) -> Tensor:
        distance: Tensor = difference.square().sum(-1) + trace + self.reference.trace - 2 * root
        return distance

    def one(self) -> Float[Tensor, " N"]:
        """Image i left out: (n - 2) C' = (n - 1) C - n / (n - 1) y_i y_i^T."""
        n = self.n
        ratio = 1 - self.own * (n / (n - 1))
        root = math.sqrt((n - 1) / (n - 2)) * (
            self.spectrum.root + self.spectrum.root_change(ratio)
        )
        trace = (self.squares.sum() - self.squares * (n / (n - 1))) / (n - 2)
        return self._distance(self.difference - self.centred / (n - 1), trace, root)

    def two(self, i: Int64[Tensor, " K"], j: Int64[Tensor, " K"]) -> Float[Tensor, " K"]:
        """Images i and j left out: (n - 3) C' = (n - 1) C - Y B Y^T with B = 1 + 11^T / (n - 2)."""
        n, b = self.n, 1 / (self.n - 2)
        rows = self.spectrum.rows
        own, cross = self.own[i] + self.own[j], self.spectrum.resolvents(rows[i] * rows[j])
        determinant = self.own[i] * self.own[j] - cross.square()
        ratio = 1 - (1 + b) * own - 2 * b * cross + (1 + 2 * b) * determinant
        root = math.sqrt((n - 1) / (n - 3)) * (
            self.spectrum.root + self.spectrum.root_change(ratio)
        )
        both = self.centred[i] + self.centred[j]
        lost = self.squares[i] + self.squares[j] + b * both.square().sum(1)
        trace = (self.squares.sum() - lost) / (n - 3)
        return self._distance(self.difference - both / (n - 2), trace, root)


def _check(features: Tensor, name: str) -> None:
    if len(features) < 2:
        raise MetricError(f"a Fréchet distance needs at least 2 {name} images, got {len(features)}")
    if not bool(torch.isfinite(features).all()):
        raise MetricError(
            f"the features of the {name} images hold NaN or infinity; check the feature network"
        )
