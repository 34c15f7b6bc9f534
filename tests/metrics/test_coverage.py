"""Intervals, by simulation: nominal 95 % covers the expectation in 93 to 97 %."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics.estimate import Estimate
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.frechet_interval import frechet_estimate
from sfumato.metrics.kernel import kernel_estimate
from sfumato.metrics.metric import inception_score
from sfumato.metrics.precision_recall import density_coverage, precision_recall

Measure = Callable[[Tensor], Mapping[str, Estimate]]


def draw(kind: str, n: int, d: int, random: torch.Generator) -> Tensor:
    """Features of a fake model: as the reference, shifted and scaled, or rectified."""
    scale = torch.linspace(0.3, 2, d)
    x = torch.randn(n, d, generator=random)
    if kind == "rectified":
        return (x + 0.3 * torch.randn(n, 1, generator=random)).relu() * scale
    if kind == "shifted":
        return (x + 0.2) * scale * (1 + 0.2 * torch.linspace(-1, 1, d))
    return x * scale


def logits(kind: str, n: int, num_classes: int, random: torch.Generator) -> Tensor:
    """As of a classifier, sure of some images and not of others, or of none."""
    if kind == "vague":
        return 3 * torch.randn(n, num_classes, generator=random)
    found = torch.randn(n, num_classes, generator=random)
    classes = torch.randint(num_classes, (n,), generator=random)
    sure = 3 + 1.5 * math.log(num_classes) * torch.rand(n, generator=random)
    found[torch.arange(n), classes] += sure
    return found


def frechet(real: Tensor) -> Measure:
    reference = FrechetReference.of(real)
    return lambda fake: {"Fréchet distance": frechet_estimate(fake, reference)}


def kernel(real: Tensor) -> Measure:
    return lambda fake: {"kernel distance": kernel_estimate(fake, real)}


def manifold(real: Tensor) -> Measure:
    return lambda fake: precision_recall(fake, real) | density_coverage(fake, real)


def coverage(measure: Measure, draws: Callable[[], Tensor], repeats: int) -> dict[str, float]:
    """The share of repeats whose interval holds the mean of all, the reference fixed."""
    found = [measure(draws()) for _ in range(repeats)]
    shares = {}
    for name in found[0]:
        truth = math.fsum(each[name].value for each in found) / repeats
        held = [each[name].low <= truth <= each[name].high for each in found]  # type: ignore[operator]
        shares[name] = sum(held) / repeats
        print(f"{name}: {truth:.4g}, covered {shares[name]:.3f}", end="; ")
    return shares


def of_features(
    metric: Callable[[Tensor], Measure], kind: str, n: int, m: int, d: int, repeats: int
) -> dict[str, float]:
    """Fake features of a kind against M of the reference."""
    random = generator("coverage", kind, n, m, d)
    measure = metric(draw("equal", m, d, random))
    shares = coverage(measure, lambda: draw(kind, n, d, random), repeats)
    print(f"{kind} N={n} M={m} d={d}")
    return shares


def as_promised(shares: Mapping[str, float], repeats: int) -> None:
    """93 to 97 %, with two standard deviations of the simulation; never all of them."""
    error = 2 * math.sqrt(0.95 * 0.05 / repeats)
    for name, share in shares.items():
        assert 0.93 - error <= share <= min(0.97 + error, 1 - 1 / repeats), name


@pytest.mark.parametrize(("kind", "n"), [("equal", 60), ("shifted", 200)])
def test_intervals_cover_the_expectation(kind: str, n: int) -> None:
    """A small version: 200 repeats leave a standard deviation of 1.5 %."""
    as_promised(of_features(frechet, kind, n, m=200, d=32, repeats=200), 200)


def test_intervals_of_neighbours_cover_the_expectation() -> None:
    """The same of precision, recall, density and coverage."""
    as_promised(of_features(manifold, "shifted", n=80, m=120, d=8, repeats=200), 200)


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
def test_frechet_distance(kind: str, n: int, m: int, d: int) -> None:
    """N below, at and above d."""
    as_promised(of_features(frechet, kind, n, m, d, repeats=1000), 1000)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal", "shifted", "rectified"])
@pytest.mark.parametrize(
    ("n", "m", "d"), [(60, 60, 8), (60, 240, 8), (60, 60, 96), (200, 200, 32), (200, 800, 32)]
)
def test_kernel_distance(kind: str, n: int, m: int, d: int) -> None:
    """Few images against few and many; heavy tails are a limit (docs/results/statistics.md)."""
    (share,) = of_features(kernel, kind, n, m, d, repeats=1000).values()
    assert (0.92 if kind == "equal" else 0.82) <= share <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal", "shifted"])
@pytest.mark.parametrize(("n", "m", "d"), [(100, 100, 8), (200, 200, 8), (200, 200, 32)])
def test_precision_recall_density_coverage(kind: str, n: int, m: int, d: int) -> None:
    """Recall and coverage are only bounded: see docs/results/statistics.md."""
    shares = of_features(manifold, kind, n, m, d, repeats=500)
    as_promised({key: shares.pop(key) for key in ("precision", "density")}, 500)
    assert min(shares.values()) >= 0.9
    assert max(shares.values()) <= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sure", "vague"])
@pytest.mark.parametrize(("n", "num_classes"), [(200, 10), (200, 100), (1000, 100), (1000, 1000)])
def test_inception_score(kind: str, n: int, num_classes: int) -> None:
    """More images than classes, and fewer."""
    random = generator("coverage of the Inception Score", kind, n, num_classes)
    shares = coverage(
        lambda fake: {"Inception Score": inception_score(fake)},
        lambda: logits(kind, n, num_classes, random),
        repeats=500,
    )
    print(f"{kind} N={n}, {num_classes} classes")
    as_promised(shares, 500)
