"""Mean and covariance of a stream of features, in memory that does not grow with N."""

import torch
from jaxtyping import Float
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
