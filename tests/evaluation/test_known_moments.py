"""A reference of known mean and covariance, such as a published one."""

from pathlib import Path

import pytest
import torch

from sfumato.core.config import parse
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.evaluation.score import score
from sfumato.metrics.features import FeatureNetwork
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.pretrained import EfficientNetFeatures

REPEATS = 50
"""Images at each of the four corners."""


@pytest.fixture(autouse=True)
def pixels_as_features(monkeypatch: pytest.MonkeyPatch) -> None:
    network = FeatureNetwork("pixels", "0" * 64, 2, "none", lambda images: images.flatten(1))
    monkeypatch.setattr(EfficientNetFeatures, "build", lambda self, cache: network)


def test_a_gaussian_reference_has_a_distance_in_closed_form_and_no_floor(tmp_path: Path) -> None:
    """|mu - m|^2 + sum_k (s_k - t_k)^2 between Gaussians with standard deviations s_k and t_k."""
    corners = torch.tensor([[70, 90], [130, 90], [70, 150], [130, 150]], dtype=torch.uint8)
    images = corners.repeat(REPEATS, 1).reshape(-1, 1, 1, 2)
    n = len(images)
    mean, std = torch.tensor([90.0, 125.0]), torch.tensor([20.0, 40.0])
    reference = FrechetReference.of_moments(mean, std.square().diag(), n=5_000)
    metrics = ["frechet_distance", "frechet_infinity", "kernel_distance", "recall"]
    settings = {"features": {"kind": "efficientnet-lite0"}, "metrics": metrics}
    protocol = parse(EvaluationConfig, settings, "test")

    found = score(images, reference, protocol, tmp_path)

    spread = 30 * (n / (n - 1)) ** 0.5  # unbiased, of corners 30 from the mean on either side
    expected = (100 - 90) ** 2 + (120 - 125) ** 2 + (spread - 20) ** 2 + (spread - 40) ** 2
    distance = found.scores["frechet_distance"]
    assert distance.value == pytest.approx(expected, rel=1e-9)
    assert distance.n == n
    assert distance.low is not None
    assert distance.high is not None
    assert distance.low < expected < distance.high
    assert list(found.scores) == ["frechet_distance"]
    reason = "only mean and covariance of the reference are known"
    assert found.warnings == (
        f"no floor: {reason}",
        f"no Fréchet distance, N → ∞: {reason}",
        f"no Kernel distance: {reason}",
        f"no Recall: {reason}",
    )
    assert found.floors == found.excess == found.class_floors == {}
    assert found.to_mapping()["metrics"] == []
    assert found.protocol["reference"] == "known moments"
    assert found.protocol["reference_images"] == 5_000
    assert "floor" not in found.protocol


def test_other_moments_are_another_protocol(tmp_path: Path) -> None:
    images = torch.arange(40, dtype=torch.uint8).reshape(-1, 1, 1, 2)
    settings = {"features": {"kind": "efficientnet-lite0"}, "metrics": ["fid"]}
    protocol = parse(EvaluationConfig, settings, "test")

    def digest(mean: float, std: float) -> str | None:
        mu, covariance = torch.full((2,), mean), std**2 * torch.eye(2)
        reference = FrechetReference.of_moments(mu, covariance, n=100)
        return score(images, reference, protocol, tmp_path).scores["frechet_distance"].protocol

    assert digest(3.0, 4.0) == digest(3.0, 4.0)
    assert len({digest(3.0, 4.0), digest(2.0, 4.0), digest(3.0, 5.0)}) == 3
