"""EDM's DDPM++ and EDM2's network: published sizes, and magnitudes that stay."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.config import merge
from sfumato.experiment.training_run import train
from sfumato.networks.ddpmpp import DDPMPPConfig
from sfumato.networks.edm2 import (
    DecoderBlock,
    EDM2Config,
    EncoderBlock,
    MPClassEmbedding,
    MPFourier,
    MPLayer,
    constraint,
    mp_cat,
    mp_silu,
    mp_sum,
    unit_rms,
)
from sfumato.networks.unet import UNetConfig
from support.experiments import DIFFUSION, experiment
from support.processes import silent


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def test_the_parameters_of_ddpmpp() -> None:
    """Karras et al. 2022, table 2 and appendix F: 55.7 M on CIFAR-10."""
    with torch.device("meta"):
        network = DDPMPPConfig().build((3, 32, 32), 0)
    assert sum(p.numel() for p in network.parameters()) == 55_732_739


@pytest.mark.parametrize(
    ("channels", "millions"),
    [(128, 125), (192, 280), (448, 1523)],
)
def test_the_parameters_of_edm2(channels: int, millions: int) -> None:
    """Karras et al. 2024, table 2: XS, S and XXL on latents of ImageNet-512."""
    with torch.device("meta"):
        network = EDM2Config(channels=channels).build((4, 64, 64), 1000)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


@pytest.mark.parametrize("gain", [0.0, 0.5])
def test_activations_keep_unit_rms_through_depth(gain: float) -> None:
    """At the output of every one of 30 blocks; the embedding's gains off and on."""
    torch.manual_seed(0)
    config = EDM2Config(channels=64, multipliers=(1, 2), blocks=6, attention=(8,), head_channels=32)
    network = config.build((3, 16, 16), 10)
    found: list[float] = []

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(rms(output))

    for module in network.modules():
        if isinstance(module, EncoderBlock | DecoderBlock):
            module.register_forward_hook(note)
            nn.init.constant_(module.residual.gain, gain)
    nn.init.ones_(network.head_gain)
    with torch.no_grad():
        output = network(torch.randn(8, 3, 16, 16), torch.randn(8), torch.arange(8))
    assert len(found) == 30
    assert min(found) > 0.75
    assert max(found) < 1.3
    assert 0.75 < rms(output) < 1.3


def test_the_plain_unet_does_not_keep_them() -> None:
    """What the test above would miss if it could not fail: there, the RMS doubles and more."""
    torch.manual_seed(0)
    config = UNetConfig(channels=64, multipliers=(1, 1), blocks=6, attention=())
    network = config.build((3, 16, 16), 0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters = nn.Conv2d.reset_parameters.__get__(module)  # type: ignore[method-assign]
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    found: list[float] = []
    for stage in network.down:
        stage.register_forward_hook(lambda m, i, output: found.append(rms(output)))
    with torch.no_grad():
        network(torch.randn(8, 3, 16, 16), 1000 * torch.rand(8))
    assert max(found) > 2


def test_operations_keep_unit_variance() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 64, 64, 64), torch.randn(4, 16, 64, 64)
    assert rms(mp_silu(a)) == pytest.approx(1, abs=0.01)
    assert rms(mp_sum(a, torch.randn_like(a), 0.3)) == pytest.approx(1, abs=0.01)
    assert rms(MPLayer(64, 48, 3)(a)) == pytest.approx(1, abs=0.03)
    assert rms(MPFourier(512)(torch.randn(512))) == pytest.approx(1, abs=0.03)
    assert rms(MPClassEmbedding(50, 64)(torch.arange(51), 51)) == pytest.approx(1, abs=0.01)
    joined = mp_cat(a, b)
    assert rms(joined) == pytest.approx(1, abs=0.01)
    # both parts have equal weight for the next layer, in spite of their widths
    assert rms(joined[:, :64]) * 8 == pytest.approx(rms(joined[:, 64:]) * 4, rel=0.01)


def test_the_gradient_is_at_right_angles_to_the_weights() -> None:
    torch.manual_seed(0)
    layer = MPLayer(5, 4, 3)
    layer(torch.randn(2, 5, 6, 6)).square().sum().backward()
    assert layer.weight.grad is not None
    cosine = F.cosine_similarity(layer.weight.grad.flatten(1), layer.weight.flatten(1))
    assert layer.weight.grad.flatten(1).norm(dim=1).min() > 0.1
    torch.testing.assert_close(cosine, torch.zeros(4), atol=1e-3, rtol=0)


def test_the_rms_is_taken_in_float32() -> None:
    """The sum of 4096 squares in bfloat16 would stop at 256."""
    x = torch.full((1, 4096), 3.0, dtype=torch.bfloat16)
    assert unit_rms(x, (1,)).unique().tolist() == [1.0]


def test_training_puts_the_weights_back_to_unit_rms(tmp_path: Path) -> None:
    network = {
        "kind": "edm2",
        "channels": 8,
        "multipliers": [1],
        "blocks": 1,
        "attention": [],
        "head_channels": 4,
    }
    changed = merge(DIFFUSION, {"model": {"network": network}})
    train(experiment(changed, sample_images=0, learning_rate=0.1), tmp_path / "r", log=silent)
    checkpoint = sorted((tmp_path / "r" / "checkpoints").glob("*.safetensors"))[-1]
    weights = {
        name: tensor
        for name, tensor in load_file(checkpoint).items()
        if name.startswith("model") and name.endswith("weight")
    }
    assert len(weights) > 10
    for name, weight in weights.items():
        norms = weight.flatten(1).norm(dim=1) / math.sqrt(weight[0].numel())
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-3, rtol=0, msg=name)


def test_only_networks_with_constrained_weights_are_constrained() -> None:
    assert constraint(UNetConfig(channels=8, attention=()).build((1, 8, 8), 0)) is None
    layer = MPLayer(4, 4, 0)
    with torch.no_grad():
        layer.weight.mul_(3)
    constrain = constraint(layer)
    assert constrain is not None
    constrain()
    assert rms(layer.weight) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("change", [{"head_channels": 5}, {"label_scale": 0.0}, {"dropout": 1.0}])
def test_impossible_values_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        EDM2Config(**change)


@pytest.mark.parametrize("change", [{"channels": 5}, {"heads": 3}, {"dropout": 1.0}])
def test_impossible_values_of_ddpmpp_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        DDPMPPConfig(**change)
