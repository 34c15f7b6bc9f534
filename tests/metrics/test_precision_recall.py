"""Precision, recall, density, coverage against prdc; their jackknives against brute force."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics import blocks
from sfumato.metrics.estimate import Estimate, MetricError
from sfumato.metrics.precision_recall import density_coverage, precision_recall


def draw(n: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, 4, generator=generator("manifold", seed))


@pytest.mark.parametrize("largest", [7, 1_000])
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_agrees_with_prdc(
    k: int, scale: float, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LARGEST", largest)
    prdc = pytest.importorskip("prdc")
    fake, real = draw(60, 0, scale), draw(80, 1)
    theirs = prdc.compute_prdc(real_features=real.numpy(), fake_features=fake.numpy(), nearest_k=k)
    ours = precision_recall(fake, real, k) | density_coverage(fake, real, k)
    assert {key: ours[key].value for key in theirs} == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("largest", [7, 1_000])
@pytest.mark.parametrize("key", ["recall", "density", "coverage"])
def test_the_jackknife_equals_leaving_out_one_by_one(
    key: str, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LARGEST", largest)
    fake, real = draw(30, 2, 1.2), draw(40, 3)

    def measure(fake: Tensor) -> Estimate:
        return (precision_recall(fake, real, 3) | density_coverage(fake, real, 3))[key]

    without = [measure(torch.cat([fake[:i], fake[i + 1 :]])).value for i in range(30)]
    found = measure(fake).left_out
    assert found is not None
    assert len(set(without)) > 1
    assert found.one.tolist() == pytest.approx(without, rel=1e-9)


def test_the_second_order_of_coverage_is_what_two_images_do_together() -> None:
    """A third of that is taken off: the balls that hold both and no other fake image, squared."""
    fake, real = draw(12, 2, 1.2), draw(20, 3)

    def covered(*missing: int) -> float:
        kept = torch.cat([fake[i : i + 1] for i in range(12) if i not in missing])
        return 20 * density_coverage(kept, real, 3)["coverage"].value

    single = [covered(i) for i in range(12)]
    both = sum(
        (single[i] + single[j] - covered() - covered(i, j)) ** 2
        for i, j in combinations(range(12), 2)
    )
    first = 11 * np.var(single)  # the jackknife's variance: (n - 1) / n times the squares
    assert both > 0
    found = density_coverage(fake, real, 3)["coverage"].standard_error
    assert found == pytest.approx(math.sqrt(first - min(both, first) / 3) / 20, rel=1e-9)


def test_collapse_costs_recall_and_coverage_not_precision() -> None:
    real = draw(200, 4)
    collapsed = real[:1] + draw(200, 5, 0.01)
    scores = precision_recall(collapsed, real) | density_coverage(collapsed, real)
    assert scores["precision"].value == 1.0
    assert scores["recall"].value < 0.02
    assert scores["coverage"].value < 0.1


def test_too_few_images_are_refused() -> None:
    with pytest.raises(MetricError, match="at least 5 images, got 4"):
        precision_recall(draw(4, 0), draw(10, 1))
