"""The Fréchet distance at infinite N: the bias is gone, and the interval covers."""

import math

import pytest
import torch

from sfumato.core.noise import generator
from sfumato.metrics.estimate import MetricError
from sfumato.metrics.frechet import FrechetReference, frechet_distance
from sfumato.metrics.frechet_interval import extrapolated_distance


@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_the_bias_of_finite_samples_is_taken_off(shift: float) -> None:
    """Gaussian clouds with known distance d shift^2; both sides are drawn again each time."""
    n, d, repeats = 250, 16, 40
    plain, infinite = [], []
    for k in range(repeats):
        g = generator("infinite", k)
        fake, real = torch.randn(n, d, generator=g) + shift, torch.randn(n, d, generator=g)
        plain.append(frechet_distance(fake, FrechetReference.of(real)))
        infinite.append(extrapolated_distance(fake, real).value)
    values, truth = torch.tensor(infinite), d * shift**2
    error = float(values.std()) / math.sqrt(repeats)
    bias = sum(plain) / repeats - truth
    assert abs(float(values.mean()) - truth) < 3 * error
    assert bias > 10 * error


def test_the_interval_covers_with_the_reference_fixed() -> None:
    g = generator("infinite cover")
    real = torch.randn(300, 8, generator=g)
    found = [extrapolated_distance(torch.randn(300, 8, generator=g) + 0.2, real) for _ in range(80)]
    mean = sum(e.value for e in found) / 80
    covered = sum(e.low <= mean <= e.high for e in found)  # type: ignore[operator]
    assert 0.88 <= covered / 80 <= 1


def test_below_four_images_a_feature_it_is_refused() -> None:
    x = torch.randn(63, 16, generator=generator("few"))
    with pytest.raises(MetricError, match="at least 64 images a side, got 63 and 63"):
        extrapolated_distance(x, x)
