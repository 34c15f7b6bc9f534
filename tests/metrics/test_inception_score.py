"""The Inception Score: closed forms, and torch-fidelity's value."""

import math

import pytest
import torch

from sfumato.core.noise import generator
from sfumato.metrics.metric import inception_score


def test_certain_and_balanced_predictions_score_the_number_of_classes() -> None:
    assert inception_score(1e3 * torch.eye(7).repeat(5, 1)).value == pytest.approx(7)
    assert inception_score(torch.zeros(10, 7)).value == pytest.approx(1)


def test_agrees_with_torch_fidelity() -> None:
    metric_isc = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(200, 20, generator=generator("logits"))
    theirs = metric_isc.isc_features_to_metric(logits, splits=1, shuffle=False)
    expected = theirs["inception_score_mean"]
    assert inception_score(logits).value == pytest.approx(expected, rel=1e-6)


def test_the_error_matches_the_spread_over_draws() -> None:
    found = [
        inception_score(3 * torch.randn(150, 10, generator=generator("spread", r)))
        for r in range(200)
    ]
    spread = torch.tensor([e.value for e in found]).std().item()
    mean_square = math.fsum((e.standard_error or 0) ** 2 for e in found) / 200
    assert math.sqrt(mean_square) == pytest.approx(spread, rel=0.2)
