"""The attention U-Net: published size, and its attention against torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks.tiny import moved
from sfumato.networks.attention_unet import AttentionBlock, AttentionUNetConfig

TWO_LEVELS = {"multipliers": (1, 2, 4), "bottleneck_blocks": 2}


@pytest.mark.parametrize(
    ("config", "num_classes", "expected"),
    [
        (AttentionUNetConfig(), 0, 23_332_739),
        (AttentionUNetConfig(), 10, 23_332_739 + 11 * 256),
        (AttentionUNetConfig(**TWO_LEVELS), 0, 11_341_443),
        (AttentionUNetConfig(**TWO_LEVELS, channels=32), 0, 2_872_131),  # "about 3 M"
    ],
)
def test_parameters(config: AttentionUNetConfig, num_classes: int, expected: int) -> None:
    with torch.device("meta"):
        network = config.build((3, 64, 64), num_classes)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_a_block_is_multi_head_attention_and_two_linear_layers() -> None:
    torch.manual_seed(0)
    block = moved(AttentionBlock(16, heads=4))
    peer = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    peer.load_state_dict(
        {
            "in_proj_weight": block.qkv.weight,
            "in_proj_bias": block.qkv.bias,
            "out_proj.weight": block.out.weight,
            "out_proj.bias": block.out.bias,
        }
    )
    x = torch.randn(2, 16, 3, 5)
    tokens = x.permute(0, 2, 3, 1).reshape(2, 15, 16)
    normed = block.norm_1(tokens)
    h = tokens + peer(normed, normed, normed)[0]
    h = h + block.linear_2(F.gelu(block.linear_1(block.norm_2(h))))
    expected = h.view(2, 3, 5, 16).permute(0, 3, 1, 2)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "change", [{"heads": 3}, {"bottleneck_blocks": 1}, {"time_features": 15}, {"multipliers": (1,)}]
)
def test_impossible_values_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        AttentionUNetConfig(**change)
