"""The kernel distance against its definition, torch-fidelity, and a simulation."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics import blocks
from sfumato.metrics.estimate import MetricError
from sfumato.metrics.kernel import kernel_estimate


def draw(n: int, d: int, seed: object, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=generator("kernel", str(seed))) + shift


@pytest.mark.parametrize("largest", [2, 1_000])
def test_it_is_the_mean_over_all_pairs(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGEST", largest)
    x, y = draw(7, 3, 0).double(), draw(5, 3, 1).double()

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within_x = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    within_y = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert kernel_estimate(x, y).value == pytest.approx(within_x + within_y - 2 * across)


def test_agrees_with_torch_fidelity() -> None:
    """Its subsets are drawn without replacement, so one of all images is the whole set."""
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = draw(80, 16, 2), draw(80, 16, 3, shift=0.3)
    theirs = metric_kid.kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=80)
    expected = theirs["kernel_inception_distance_mean"]
    assert kernel_estimate(x, y).value == pytest.approx(expected, rel=1e-6)


def test_agrees_with_clean_fid() -> None:
    clean_fid = pytest.importorskip("cleanfid.fid")
    x, y = draw(80, 16, 4).double(), draw(80, 16, 5, shift=0.3).double()
    theirs = clean_fid.kernel_distance(x.numpy(), y.numpy(), num_subsets=1)
    assert kernel_estimate(x, y).value == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_interval_covers_and_the_value_is_unbiased(shift: float) -> None:
    """150 repeats leave 1.8 % of the coverage; the mean is that of a reference known exactly."""
    real = draw(200, 32, "real")
    found = [kernel_estimate(draw(200, 32, (shift, r), shift), real) for r in range(150)]
    large = kernel_estimate(draw(6_000, 32, ("many", shift), shift), real)
    values = np.array([e.value for e in found])
    assert large.standard_error is not None
    error = math.hypot(values.std() / math.sqrt(150), large.standard_error)
    assert abs(values.mean() - large.value) < 3 * error
    covered = sum(e.low <= values.mean() <= e.high for e in found)  # type: ignore[operator]
    assert 0.91 <= covered / 150 <= 0.99


def test_too_few_images_are_refused() -> None:
    with pytest.raises(MetricError, match="4 fake and 2 real"):
        kernel_estimate(draw(3, 2, 0), draw(5, 2, 1))
