"""The Fréchet distance: closed forms, numerics, and what the jackknife leaves out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics.estimate import MetricError
from sfumato.metrics.frechet import FrechetReference, eigenvalues, frechet_distance
from sfumato.metrics.frechet_interval import Jackknife, frechet_estimate


def cloud(n: int, d: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    g = generator("cloud", seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return scale * torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + 1


def with_sqrtm(a: Tensor, b: Tensor) -> float:
    """The formula as it is written, with a general square root of a matrix."""
    x, y = a.double().numpy(), b.double().numpy()
    c_x, c_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(c_x @ c_y)
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c_x + c_y - 2 * root).real)


def test_distance_of_gaussians_with_known_moments() -> None:
    """Diagonal covariances commute: |m|^2 + sum (s_f - s_r)^2."""
    s_f, s_r = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5])
    whitened = cloud(1000, 3)
    whitened = whitened - whitened.mean(0)
    values, vectors = torch.linalg.eigh(whitened.T @ whitened / 999)
    whitened = whitened @ vectors / values.sqrt()  # mean 0 and covariance 1 exactly
    reference = FrechetReference.of_moments(torch.zeros(3), torch.diag(s_r.double() ** 2), 1000)
    fake = whitened * s_f + torch.tensor([1.0, 0.0, -2.0])
    exact = 5 + float((s_f - s_r).square().sum())
    assert frechet_distance(fake, reference) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(60, 80), (13, 80), (60, 11)])
def test_agrees_with_the_square_root_of_a_matrix(n: int, m: int) -> None:
    """Above and below the feature dimension of 12, on either side."""
    a, b = cloud(n, 12, seed=1), cloud(m, 12, seed=2)
    distance = frechet_distance(a, FrechetReference.of(b))
    assert distance == pytest.approx(with_sqrtm(a, b), rel=1e-6)


@pytest.mark.parametrize("n", [60, 200])
def test_agrees_with_torch_fidelity_clean_fid_and_pytorch_fid(n: int) -> None:
    """The distance of the same features, above and below their number of 100."""
    torch_fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    clean_fid = pytest.importorskip("cleanfid.fid")
    pytorch_fid = pytest.importorskip("pytorch_fid.fid_score")
    a, b = cloud(n, 100, seed=1), cloud(n + 20, 100, seed=2)
    moments = [(x.mean(0).numpy(), np.cov(x.numpy(), rowvar=False)) for x in (a, b)]
    (mean_a, cov_a), (mean_b, cov_b) = moments
    first, second = ({"mu": mean, "sigma": cov} for mean, cov in moments)
    expected = [
        torch_fidelity.fid_statistics_to_metric(first, second, False)["frechet_inception_distance"],
        clean_fid.frechet_distance(mean_a, cov_a, mean_b, cov_b),
        pytorch_fid.calculate_frechet_distance(mean_a, cov_a, mean_b, cov_b),
    ]
    distance = frechet_distance(a, FrechetReference.of(b))
    assert expected == pytest.approx([distance] * 3, rel=1e-3)


def test_below_the_dimension_it_is_the_nuclear_norm_of_centred_features() -> None:
    a, b = cloud(9, 30, seed=1), cloud(14, 30, seed=2)
    y_a, y_b = a - a.mean(0), b - b.mean(0)
    nuclear = torch.linalg.svdvals(y_a @ y_b.T).sum() / math.sqrt(8 * 13)
    exact = (
        (a.mean(0) - b.mean(0)).square().sum()
        + y_a.square().sum() / 8
        + y_b.square().sum() / 13
        - 2 * nuclear
    )
    assert frechet_distance(a, FrechetReference.of(b)) == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("n", [20, 300])
def test_distance_to_itself_is_zero_and_never_negative(n: int) -> None:
    x = cloud(n, 64).float()
    distance = frechet_distance(x, FrechetReference.of(x))
    assert 0 <= distance < 1e-6 * float(x.var(0).sum())


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(4, 40),
    m=st.integers(2, 40),
    rank=st.integers(0, 8),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_collapsed_features_give_a_finite_distance_that_contains_itself(
    n: int, m: int, rank: int, scale: float
) -> None:
    """Whatever the rank (0: all images equal), the interval is real and holds the value."""
    fake = scale * cloud(n, 8, seed=3)
    fake[:, rank:] = 1.0
    estimate = frechet_estimate(fake, FrechetReference.of(cloud(m, 8, seed=4)))
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0 <= estimate.low <= estimate.value <= estimate.high < math.inf


def test_order_rotation_and_shift_do_not_change_the_estimate() -> None:
    a, b = cloud(50, 10, seed=5), cloud(60, 10, seed=6)
    turn = torch.linalg.qr(cloud(10, 10, seed=7))[0]
    before = frechet_estimate(a, FrechetReference.of(b))
    after = frechet_estimate(a @ turn + 3, FrechetReference.of(b @ turn + 3))
    assert after.value == pytest.approx(before.value, rel=1e-9)
    assert after.standard_error == pytest.approx(before.standard_error, rel=1e-6)
    permuted = frechet_distance(
        a[torch.randperm(50, generator=generator("p"))], FrechetReference.of(b)
    )
    assert permuted == pytest.approx(before.value, rel=1e-9)


@pytest.mark.parametrize(
    ("n", "m", "d"), [(40, 50, 8), (9, 50, 8), (8, 50, 8), (6, 50, 8), (12, 7, 30), (31, 40, 30)]
)
def test_left_out_distances_equal_those_computed_anew(n: int, m: int, d: int) -> None:
    """The rank-one and rank-two formulas, above, at and below the dimension."""
    fake, reference = cloud(n, d, seed=8), FrechetReference.of(cloud(m, d, seed=9))
    left_out = Jackknife(fake, reference)
    direct = [frechet_distance(torch.cat([fake[:i], fake[i + 1 :]]), reference) for i in range(n)]
    spread = float(np.std(direct))
    assert np.allclose(left_out.one(torch.arange(n)).numpy(), direct, rtol=0, atol=1e-5 * spread)
    i, j = torch.tensor([0, 1, n - 1]), torch.tensor([2, 3, 0])
    pairs = []
    for first, second in zip(i.tolist(), j.tolist(), strict=True):
        kept = [k for k in range(n) if k not in (first, second)]
        pairs.append(frechet_distance(fake[kept], reference))
    # Where leaving out changes the rank, the determinant is a small difference of large numbers.
    assert np.allclose(left_out.two(i, j).numpy(), pairs, rtol=0, atol=1e-2 * spread)


def test_strata_narrow_the_interval_when_classes_differ() -> None:
    """Three classes far apart: most of the spread of iid draws is that of their frequencies."""
    strata = torch.arange(300) % 3
    fake = cloud(300, 5, seed=10) * 0.1 + 10 * strata[:, None]
    reference = FrechetReference.of(cloud(300, 5, seed=11) * 0.1 + 10 * (strata + 0.5)[:, None])
    free = frechet_estimate(fake, reference).standard_error
    fixed = frechet_estimate(fake, reference, strata).standard_error
    assert free is not None
    assert fixed is not None
    assert fixed < 0.3 * free


def test_unusable_features_are_refused() -> None:
    x = cloud(5, 3)
    with pytest.raises(MetricError, match="at least 2 fake images, got 1"):
        frechet_distance(x[:1], FrechetReference.of(x))
    with pytest.raises(MetricError, match="reference images hold NaN"):
        FrechetReference.of(torch.full((5, 3), torch.nan))
    few = frechet_estimate(x[:3], FrechetReference.of(x))
    assert (few.low, few.high, few.standard_error) == (None, None, None)


@pytest.mark.parametrize("size", [1, 2, 3, 60])
def test_eigenvalues_are_those_of_the_lower_triangle(size: int) -> None:
    """Whatever stands above the diagonal, and in either memory layout."""
    x = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    symmetric = x @ x.T
    expected = torch.linalg.eigvalsh(symmetric)
    for matrix in (symmetric.tril(), symmetric.tril().T.contiguous().T):
        torch.testing.assert_close(eigenvalues(matrix), expected)
