"""Estimates and Wilson's interval."""

import pytest
from scipy.stats import binomtest

from sfumato.metrics.estimate import Estimate, MetricError, proportion, with_standard_error


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 10), (985, 1000)])
def test_wilson_interval_is_scipys(k: int, n: int) -> None:
    exact = binomtest(k, n).proportion_ci(method="wilson")
    estimate = proportion(k, n)
    assert estimate.value == k / n
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert estimate.standard_error is not None
    assert estimate.standard_error > 0


def test_proportion_of_nothing_is_refused() -> None:
    with pytest.raises(MetricError, match="0 images"):
        proportion(0, 0)


def test_round_trip_through_a_mapping() -> None:
    for estimate in (proportion(3, 10), Estimate(1.5, None, None, 3, None)):
        assert Estimate.from_mapping(estimate.to_mapping()) == estimate


def test_students_interval_is_cut_at_what_is_possible() -> None:
    estimate = with_standard_error(1.0, 1.0, 50, least=0.0)
    assert estimate.low == 0.0
    assert estimate.high == pytest.approx(3.009575, abs=1e-6)
