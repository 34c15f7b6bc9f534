"""Change between two models, image by image, and Pareto fronts: known answers."""

import numpy as np
import pytest
import torch

from sfumato.runs.results import FrontPoint
from sfumato.study.measure import change
from sfumato.study.study_results import front


def test_equal_images_have_not_changed_and_unrelated_ones_have_changed_completely() -> None:
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(400, 8, generator=random) for _ in range(2))
    assert change(a, a).value == 0
    assert change(a, b).value == pytest.approx(1, abs=0.05)


def test_the_change_of_correlated_gaussians_is_one_minus_their_correlation() -> None:
    """E|a - b|^2 = 2 d (1 - rho) against 2 d; the interval holds it."""
    random = torch.Generator().manual_seed(1)
    a, e = (torch.randn(2000, 5, generator=random) for _ in range(2))
    found = change(a, 0.8 * a + 0.6 * e)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.2 < found.high


def test_the_standard_error_is_the_spread_over_draws() -> None:
    random = torch.Generator().manual_seed(2)
    values, errors = [], []
    for _ in range(300):
        a, e = (torch.randn(60, 4, generator=random) for _ in range(2))
        found = change(a, 0.8 * a + 0.6 * e)
        values.append(found.value)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)


def test_a_front_keeps_what_nothing_dominates() -> None:
    known = [("a", 1, 9), ("b", 2, 5), ("c", 3, 7), ("d", 4, 4), ("e", 2, 6), ("f", 5, 4)]
    points = [FrontPoint(arm=arm, cost=cost, quality=quality) for arm, cost, quality in known]
    assert [p.arm for p in front(points) if p.on_front] == ["a", "b", "d"]
    assert [p.arm for p in front(points, lower_is_better=False) if p.on_front] == ["a"]
