"""What is left out: variances of statistics and of differences, against known answers."""

import math

import pytest
import torch
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics.estimate import LeftOut
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.frechet_interval import frechet_estimate


def of_mean(x: Tensor) -> LeftOut:
    """The mean, as a statistic: its variance is known."""
    return LeftOut((x.sum() - x) / (len(x) - 1))


def test_the_variance_of_a_mean_is_that_of_the_values_over_n() -> None:
    x = torch.randn(50, generator=generator("mean"), dtype=torch.float64)
    assert of_mean(x).variance == pytest.approx(float(x.var()) / 50)


def test_the_difference_of_means_has_the_variance_of_the_paired_values() -> None:
    """Up to the largest deviation, which counts twice."""
    g = generator("difference")
    x = torch.randn(50, generator=g, dtype=torch.float64)
    y = 0.9 * x + 0.1 * torch.randn(50, generator=g, dtype=torch.float64)
    gap = x - y
    most = float((gap - gap.mean()).abs().max() / 50)
    found = of_mean(x).minus(of_mean(y))
    assert found.variance == pytest.approx(float(gap.var()) / 50 + most**2)
    assert of_mean(x).minus(of_mean(x)).variance == 0


def test_few_discordant_pairs_are_not_certain() -> None:
    """Four images of 1,000 on which one model alone is right: McNemar's exact p is 0.125."""
    a, b = torch.ones(1000, dtype=torch.float64), torch.ones(1000, dtype=torch.float64)
    b[:4] = 0
    error = math.sqrt(of_mean(a).minus(of_mean(b)).variance)
    assert 0.004 / error < 1.96
    b[:7] = 0  # exact p = 0.016
    assert 0.007 / math.sqrt(of_mean(a).minus(of_mean(b)).variance) > 1.96


def test_the_mean_of_statistics_has_the_variance_of_the_mean() -> None:
    g = generator("several")
    x = [torch.randn(50, generator=g, dtype=torch.float64) for _ in range(3)]
    together = LeftOut.mean([of_mean(part) for part in x])
    assert together.variance == pytest.approx(of_mean(torch.stack(x).mean(0)).variance)


def test_strata_must_be_the_same_in_pairs() -> None:
    one = torch.zeros(4, dtype=torch.float64)
    a, b = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert LeftOut(one, strata=a).pairs_with(LeftOut(one, strata=a))
    assert LeftOut(one, strata=a).pairs_with(LeftOut(one))
    assert not LeftOut(one, strata=a).pairs_with(LeftOut(one, strata=b))
    assert not LeftOut(one).pairs_with(LeftOut(one[:3]))


def test_draws_must_be_the_same_in_pairs() -> None:
    """Those of one class of many are some of all; nothing said, they are the first N."""
    one = torch.zeros(3, dtype=torch.float64)
    some = LeftOut(one, draws=torch.tensor([0, 2, 4]))
    assert some.pairs_with(some.minus(some))
    assert not some.pairs_with(LeftOut(one))
    assert not some.pairs_with(LeftOut(one, draws=torch.tensor([0, 2, 5])))
    assert LeftOut(one).pairs_with(LeftOut(one, draws=torch.arange(3)))


@pytest.mark.parametrize("common", [0.0, 0.9])
def test_the_spread_of_a_difference_of_frechet_distances(common: float) -> None:
    """Two models with `common` of their noise shared: the reported variance is that over draws."""
    n, d = 80, 6
    reference = FrechetReference.of(torch.randn(80, d, generator=generator("paired reference")))
    gaps, reported = [], []
    for repeat in range(100):
        g = generator("paired", str(common), repeat)
        z, own = torch.randn(n, d, generator=g), torch.randn(2, n, d, generator=g)
        fakes = math.sqrt(common) * z + math.sqrt(1 - common) * own
        a, b = (frechet_estimate(fake, reference) for fake in fakes)
        assert a.left_out is not None
        assert b.left_out is not None
        gaps.append(a.value - b.value)
        reported.append(a.left_out.minus(b.left_out).variance)
    spread = float(torch.tensor(gaps).var())
    assert sum(reported) / 100 == pytest.approx(spread, rel=0.35)
