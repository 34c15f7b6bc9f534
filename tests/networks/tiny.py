"""A tiny config of every network, and how to move one away from its initialization."""

from typing import Any, get_args

import torch
from torch import nn

from sfumato.networks import Network
from sfumato.networks.attention_unet import AttentionUNetConfig
from sfumato.networks.ddpmpp import DDPMPPConfig
from sfumato.networks.dit import DiTConfig
from sfumato.networks.edm2 import EDM2Config
from sfumato.networks.plain_nets import ConvNetConfig, MinimalUNetConfig
from sfumato.networks.unet import UNetConfig

TINY: dict[str, Any] = {
    "unet": UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=()),
    "unet, ADM": UNetConfig(
        channels=16,
        multipliers=(1, 2, 2),
        blocks=1,
        attention=(),
        head_channels=8,
        conditioning="scale_shift",
        resampling="residual",
        initialization="glorot",
    ),
    "unet, class maps": UNetConfig(
        channels=16,
        multipliers=(1, 2),
        blocks=1,
        attention=(),
        patch=2,
        resampling="residual",
        class_maps=("down", "middle", "up"),
    ),
    "ddpmpp": DDPMPPConfig(channels=16, multipliers=(1, 2, 2), blocks=1, attention=(), dropout=0.0),
    "edm2": EDM2Config(
        channels=16,
        multipliers=(1, 2),
        blocks=1,
        attention=(),
        head_channels=8,
        label_scale=0.001,
    ),
    "dit": DiTConfig(patch=4, channels=32, blocks=2, heads=2),
    "minimal_unet": MinimalUNetConfig(channels=8),
    "conv_net": ConvNetConfig(channels=16, multipliers=(1, 2)),
    "attention_unet": AttentionUNetConfig(
        channels=8, multipliers=(1, 2, 2), bottleneck_blocks=2, time_features=16
    ),
}
KINDS = [config.kind for config in get_args(get_args(Network)[0])]


def moved(network: nn.Module, by: float = 0.1) -> nn.Module:
    """The network after its zero-initialized layers have moved."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(by * torch.randn(parameter.shape))
    return network.eval()
