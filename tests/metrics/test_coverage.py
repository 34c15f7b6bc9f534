"""The interval of a Fréchet distance, by simulation: nominal 95 % covers in 93 to 97 %."""

import math

import pytest
import torch
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.frechet_interval import frechet_estimate


def draw(kind: str, n: int, d: int, random: torch.Generator) -> Tensor:
    """Features of a fake model: as the reference, shifted and scaled, or rectified."""
    scale = torch.linspace(0.3, 2, d)
    x = torch.randn(n, d, generator=random)
    if kind == "rectified":
        return (x + 0.3 * torch.randn(n, 1, generator=random)).relu() * scale
    if kind == "shifted":
        return (x + 0.2) * scale * (1 + 0.2 * torch.linspace(-1, 1, d))
    return x * scale


def coverage(kind: str, n: int, m: int, d: int, repeats: int) -> float:
    """The share of repeats whose interval holds the mean of all, the reference fixed."""
    random = generator("coverage", kind, n, m, d)
    reference = FrechetReference.of(draw("equal", m, d, random))
    estimates = [frechet_estimate(draw(kind, n, d, random), reference) for _ in range(repeats)]
    truth = math.fsum(e.value for e in estimates) / repeats
    return sum(e.low <= truth <= e.high for e in estimates) / repeats  # type: ignore[operator]


@pytest.mark.parametrize(("kind", "n"), [("equal", 60), ("shifted", 200)])
def test_intervals_cover_the_expectation(kind: str, n: int) -> None:
    """A small version: 200 repeats leave a standard deviation of 1.5 %."""
    assert 0.91 <= coverage(kind, n, m=200, d=32, repeats=200) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal", "shifted", "rectified"])
@pytest.mark.parametrize(
    ("n", "m", "d"),
    [
        (64, 64, 16),
        (500, 500, 16),
        (60, 60, 96),
        (60, 240, 96),
        (96, 400, 96),
        (130, 130, 96),
        (300, 300, 96),
        (600, 2400, 64),
        (100, 100, 256),
    ],
)
def test_intervals_cover_at_their_nominal_rate(kind: str, n: int, m: int, d: int) -> None:
    """N below, at and above d; 93 to 97 %, with two standard deviations of 1,000 repeats."""
    share = coverage(kind, n, m, d, repeats=1000)
    error = 2 * math.sqrt(0.95 * 0.05 / 1000)
    print(f"{kind} N={n} M={m} d={d}: {share:.3f}")
    assert 0.93 - error <= share <= 0.97 + error
