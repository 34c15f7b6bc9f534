"""Every metric from the same images through our program and through others, one network."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from metrics.random_networks import pictures, write_random_inception
from sfumato.metrics.frechet import FrechetReference, frechet_distance
from sfumato.metrics.kernel import kernel_estimate
from sfumato.metrics.metric import inception_score
from sfumato.metrics.precision_recall import density_coverage, precision_recall
from sfumato.metrics.pretrained import InceptionFeatures

N = 24


class Seen(NamedTuple):
    """Features [N, 2048] of both sets, and the logits [N, 1008] of the fake one."""

    fake: Tensor
    real: Tensor
    logits: Tensor


def fake_and_real() -> tuple[Tensor, Tensor]:
    """Images of 32 x 32 from coarse to fine; the fake ones of less contrast."""
    fake, real = (
        torch.cat([pictures(N // 3, 32, seed, cells=cells) for cells in (3, 6, 20)])
        for seed in (1, 2)
    )
    return (0.9 * fake + 12).to(torch.uint8), real


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    write_random_inception(path)
    return path


@pytest.fixture(scope="module")
def ours(weights: Path) -> Seen:
    network = InceptionFeatures(weights=weights).build(Path())
    fake, real = map(network, fake_and_real())
    assert network.head is not None
    return Seen(fake, real, fake @ network.head.T)


@pytest.fixture(scope="module")
def theirs(weights: Path) -> Seen:
    """As torch-fidelity sees them, its resizing included."""
    library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network = library.FeatureExtractorInceptionV3(
        "i", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    ).eval()
    with torch.inference_mode():
        (fake, logits), (real, _) = map(network, fake_and_real())
    return Seen(fake, real, logits)


def test_features_and_logits(ours: Seen, theirs: Seen) -> None:
    """To 1e-4 of their spread over the images."""
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-4 * b.std(0).mean()


def test_kernel_distance_is_torch_fidelitys(ours: Seen, theirs: Seen) -> None:
    library = pytest.importorskip("torch_fidelity.metric_kid")
    found = library.kid_features_to_metric(
        theirs.fake, theirs.real, kid_subsets=1, kid_subset_size=N, verbose=False
    )
    expected = found["kernel_inception_distance_mean"]
    assert expected > 0.005
    assert kernel_estimate(ours.fake, ours.real).value == pytest.approx(expected, rel=1e-3)


def test_inception_score_is_torch_fidelitys(ours: Seen, theirs: Seen) -> None:
    library = pytest.importorskip("torch_fidelity.metric_isc")
    found = library.isc_features_to_metric(theirs.logits, splits=1)
    expected = found["inception_score_mean"]
    assert expected > 1.3
    assert inception_score(ours.logits).value == pytest.approx(expected, rel=1e-3)


def test_precision_and_recall_are_torch_fidelitys(ours: Seen, theirs: Seen) -> None:
    library = pytest.importorskip("torch_fidelity.metric_prc")
    expected = library.prc_features_to_metric(
        theirs.fake, theirs.real, prc_neighborhood=3, verbose=False
    )
    found = precision_recall(ours.fake, ours.real, 3)
    assert 0 < expected["precision"] < 1
    assert 0 < expected["recall"] < 1
    for key in ("precision", "recall"):
        assert found[key].value == pytest.approx(expected[key], rel=1e-3)


@pytest.mark.parametrize("k", [3, 5])
def test_precision_recall_density_and_coverage_are_prdcs(ours: Seen, theirs: Seen, k: int) -> None:
    prdc = pytest.importorskip("prdc")
    expected = prdc.compute_prdc(theirs.real.numpy(), theirs.fake.numpy(), nearest_k=k)
    found = precision_recall(ours.fake, ours.real, k) | density_coverage(ours.fake, ours.real, k)
    assert {key: found[key].value for key in expected} == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow  # its square root of a matrix of 2048 x 2048
def test_frechet_distance_is_torch_fidelitys(ours: Seen, theirs: Seen) -> None:
    library = pytest.importorskip("torch_fidelity.metric_fid")
    statistics = [library.fid_features_to_statistics(x) for x in (theirs.fake, theirs.real)]
    found = library.fid_statistics_to_metric(*statistics, verbose=False)
    expected = found["frechet_inception_distance"]
    distance = frechet_distance(ours.fake, FrechetReference.of(ours.real))
    assert distance == pytest.approx(expected, rel=1e-3)
