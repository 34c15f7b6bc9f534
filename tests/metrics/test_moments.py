"""Streamed moments are those of all features at once."""

import numpy as np
import pytest
import torch

from sfumato.core.noise import generator
from sfumato.metrics.estimate import MetricError
from sfumato.metrics.frechet import (
    FrechetReference,
    Moments,
    frechet_distance,
    frechet_distance_of_moments,
)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_streamed_moments_equal_those_at_once(size: int) -> None:
    """A mean far from zero, where sums of squares would cancel."""
    x = torch.randn(100, 5, generator=generator("moments"), dtype=torch.float64) + 1e6
    moments = Moments(5)
    for part in torch.split(x, size):
        moments.add(part)
    moments.add(x[:0])
    assert moments.n == 100
    assert np.allclose(moments.mean, x.mean(0), rtol=1e-12)
    assert np.allclose(moments.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-6)
    reference = FrechetReference.of(x.flip(1) + 1)
    streamed = frechet_distance_of_moments(moments.mean, moments.covariance, reference)
    assert streamed == pytest.approx(frechet_distance(x, reference), rel=1e-6)


def test_a_covariance_needs_two_images() -> None:
    moments = Moments(2)
    moments.add(torch.zeros(1, 2))
    with pytest.raises(MetricError, match="at least 2 images, got 1"):
        _ = moments.covariance
