"""The Fréchet distance between two sets of features.

FD = |mu_f - mu_r|^2 + tr C_f + tr C_r - 2 tr (C_f C_r)^(1/2), with unbiased covariances. It is
called FID when the features are those of the reference Inception network, and only then.

Sources: Fréchet 1957; Heusel et al. 2017 (FID). With L L^T = C_r, the trace of the square root is
the sum of the square roots of the eigenvalues of the symmetric L^T C_f L, which is also the nuclear
norm of the product of the centred features. No square root of a matrix is taken, and rounding can
make nothing negative or complex.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import blas, lapack
from torch import Tensor

from sfumato.metrics.estimate import MetricError

ROWS = 4_096
"""Rows of features that are looked at together."""


class Moments:
    """Add batches of features; mean and covariance are there at any time, in float64.

    Batches are merged by the pairwise update, which does not cancel as sums of squares do.
    Source: Chan, Golub & LeVeque 1983.
    """

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.mean: Float[Tensor, " d"] = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    @staticmethod
    def of(features: Float[Tensor, "N d"]) -> "Moments":
        """The moments of features that are there, read in blocks."""
        moments = Moments(features.shape[1])
        for rows in torch.split(features, ROWS):
            moments.add(rows)
        return moments

    def add(self, features: Float[Tensor, "B d"]) -> None:
        """Count a batch."""
        if len(features) == 0:
            return
        x = features.double().cpu()
        mean = x.mean(0)
        centred, shift = x - mean, mean - self.mean
        total = self.n + len(x)
        self._scatter.addmm_(centred.T, centred)
        self._scatter.addr_(shift, shift, alpha=self.n * len(x) / total)
        self.mean = self.mean + shift * (len(x) / total)
        self.n = total

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Unbiased. Raises MetricError for fewer than two images."""
        if self.n < 2:
            raise MetricError(f"a covariance needs at least 2 images, got {self.n}")
        return self._scatter / (self.n - 1)

    @property
    def trace(self) -> float:
        """Of the covariance."""
        return float(self.covariance.trace())


ROUNDING = 1e-13
"""Eigenvalues below this share of the largest are rounding errors of zero."""


@dataclass(frozen=True)
class FrechetReference:
    """The side of a Fréchet distance that stays fixed.

    Args:
        mean: of the features.
        factor: L with L L^T the covariance; r = d (Cholesky) where that has full rank, less
            otherwise.
        trace: of the covariance.
        n: the number of images.
        triangular: whether `factor` is Cholesky's.
    """

    mean: Float[Tensor, " d"]
    factor: Float[Tensor, "d r"]
    trace: float
    n: int
    triangular: bool = False

    @staticmethod
    def of(features: Float[Tensor, "N d"]) -> "FrechetReference":
        """The reference made of `features`.

        Raises:
            MetricError: fewer than two images, or features that are not finite.
        """
        check_features(features, "reference")
        n, d = features.shape
        if n > d:
            moments = Moments.of(features)
            return FrechetReference.of_moments(moments.mean, moments.covariance, n)
        x = features.double()
        centred = x - x.mean(0)
        trace = float(centred.square().sum() / (n - 1))
        return FrechetReference(x.mean(0), centred.T / math.sqrt(n - 1), trace, n)

    @staticmethod
    def of_moments(
        mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"], n: int
    ) -> "FrechetReference":
        """The reference of known mean and covariance, for example a published one."""
        mean, covariance = mean.double(), covariance.double()
        trace = float(covariance.trace())
        factor, failed = torch.linalg.cholesky_ex(covariance)
        smallest = factor.diagonal().min() if failed == 0 else torch.zeros(())
        triangular = bool(smallest > math.sqrt(ROUNDING * max(trace, 1e-300)))
        if not triangular:
            values, vectors = torch.linalg.eigh(covariance)
            kept = values > ROUNDING * values[-1]
            factor = vectors[:, kept] * values[kept].sqrt()
        return FrechetReference(mean, factor, trace, n, triangular)

    def inner(self, covariance: Float[Tensor, "d d"]) -> Float[Tensor, "r r"]:
        """L^T C L, of which the lower triangle alone need be read."""
        if not self.triangular:
            return self.factor.T @ covariance @ self.factor
        # LAPACK's reduction of A B x = lambda x, a quarter of the work. Its lower triangles in
        # Fortran's order (torch's Cholesky factors have it too) are a tenth faster than the upper.
        symmetric = covariance.numpy().T
        found, failed = lapack.dsygst(symmetric, self.factor.numpy(), itype=2, lower=1)
        assert failed == 0
        return torch.from_numpy(found)


def frechet_distance(fake: Float[Tensor, "N d"], reference: FrechetReference) -> float:
    """The Fréchet distance, without an interval.

    Cost: O(N d^2) and one symmetric eigenvalue problem of size min(N, d), in float64. Memory:
    O(d^2), whatever N: `fake` is read in blocks and may be mapped from a file.
    Raises:
        MetricError: fewer than two images, or features that are not finite.
    """
    check_features(fake, "fake")
    n, r = len(fake), reference.factor.shape[1]
    if n > r:
        moments = Moments.of(fake)
        return frechet_distance_of_moments(moments.mean, moments.covariance, reference)
    # All by SciPy: where its threads and torch's take turns, each wait while the others still spin.
    centred = fake.numpy().astype(np.float64)
    mean = centred.mean(0)
    centred -= mean
    trace = float(blas.ddot(centred.ravel(), centred.ravel())) / (n - 1)
    projected = blas.dgemm(1.0, reference.factor.numpy(), centred.T, trans_a=1)
    gram = blas.dsyrk(1 / (n - 1), projected, trans=1, lower=1)  # one triangle of it
    return _distance(torch.from_numpy(mean), trace, torch.from_numpy(gram), reference)


def frechet_distance_of_moments(
    mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"], reference: FrechetReference
) -> float:
    """The Fréchet distance of known mean and unbiased covariance, such as streamed `Moments`."""
    covariance = covariance.double()
    inner = reference.inner(covariance)
    return _distance(mean.double(), float(covariance.trace()), inner, reference)


def _distance(mean: Tensor, trace: float, inner: Tensor, reference: FrechetReference) -> float:
    """From the mean, the trace of the covariance, and a matrix with the eigenvalues of C_f C_r."""
    values = eigenvalues(inner) if inner.numel() else inner.new_zeros(1)
    root = float(values[values > ROUNDING * values[-1]].sqrt().sum())
    gap = float((mean - reference.mean).square().sum())
    return max(gap + trace + reference.trace - 2 * root, 0.0)


def eigenvalues(matrix: Float[Tensor, "r r"]) -> Float[Tensor, " r"]:
    """Of a symmetric matrix, of which the lower triangle is read and overwritten; ascending.

    LAPACK's two steps by themselves: `eigvalsh` takes the same, and copies the matrix twice;
    torch's takes twice as long where no eigenvectors are wanted (docs/results/fid.md).
    """
    array = matrix.numpy()
    if len(array) == 1:  # which SciPy's wrapper of `dsterf` does not take
        return matrix.diagonal()
    workspace = int(lapack.dsytrd_lwork(len(array), lower=1)[0])
    _, diagonal, off, _, _ = lapack.dsytrd(array, lower=1, lwork=workspace, overwrite_a=1)
    values, unfinished = lapack.dsterf(diagonal, off)
    if unfinished:
        raise MetricError(f"the eigenvalues of a {len(array)} x {len(array)} matrix did not settle")
    return torch.from_numpy(values)


def check_features(features: Float[Tensor, "N d"], name: str) -> None:
    """Raise MetricError for fewer than two images, or features that are not finite."""
    if len(features) < 2:
        raise MetricError(f"a Fréchet distance needs at least 2 {name} images, got {len(features)}")
    if not all(bool(np.isfinite(rows.numpy()).all()) for rows in torch.split(features, ROWS)):
        raise MetricError(
            f"the features of the {name} images hold NaN or infinity; check the feature network"
        )
