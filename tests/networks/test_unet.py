"""The U-Net: conditioning, shapes, refusals."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sfumato.core.errors import ConfigError
from sfumato.networks.layers import ResidualBlock, TimeEmbedding, glorot, group_norm
from sfumato.networks.unet import Part, UNetConfig

IMPROVED = UNetConfig(blocks=3, attention=(16, 8), heads=4, conditioning="scale_shift")
ADM_64 = UNetConfig(
    channels=192,
    multipliers=(1, 2, 3, 4),
    blocks=3,
    attention=(32, 16, 8),
    head_channels=64,
    conditioning="scale_shift",
    resampling="residual",
)
SMALL = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,))


def test_it_starts_as_the_zero_function() -> None:
    """The output layer is zero-initialized (Ho et al. 2020)."""
    network = SMALL.build((1, 8, 8), 10)
    assert network(torch.randn(2, 1, 8, 8), torch.zeros(2), None).abs().max() == 0


@pytest.mark.parametrize(
    ("config", "shape", "num_classes", "out_channels", "expected"),
    [
        (UNetConfig(), (3, 32, 32), 0, 3, 35_746_307),  # DDPM, CIFAR-10: 35.7 M
        (IMPROVED, (3, 32, 32), 0, 6, 52_546_438),  # improved-diffusion, CIFAR-10: 52.5 M
        (ADM_64, (3, 64, 64), 1000, 6, 295_905_222),  # 296 M, with the null class
    ],
)
def test_parameters_as_published(
    config: UNetConfig,
    shape: tuple[int, int, int],
    num_classes: int,
    out_channels: int,
    expected: int,
) -> None:
    with torch.device("meta"):
        network = config.build(shape, num_classes, out_channels)
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("parts", [("down",), ("middle",), ("up",), ("down", "up")])
def test_class_maps_join_the_residual_blocks_of_the_parts_selected(parts: tuple[Part, ...]) -> None:
    """One more channel at the input of each block, drawn by a linear layer from the class."""
    config = UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(4,))
    plain = config.build((1, 8, 8), 0)
    joined = replace(config, class_maps=parts).build((1, 8, 8), 3)
    for part in ("down", "middle", "up"):
        for before, after in zip(getattr(plain, part), getattr(joined, part), strict=True):
            if not isinstance(before.block, ResidualBlock):
                continue
            more = after.block.conv_1.in_channels - before.block.conv_1.in_channels
            assert more == (part in parts)
            if more:
                drawn = after.class_map(torch.eye(64)[:2])
                assert drawn.shape[2:] in {(8, 8), (4, 4)}
                weight = after.class_map.linear.weight[:, :2].T + after.class_map.linear.bias
                assert torch.equal(drawn.flatten(1), weight)


def test_groups_are_the_32_published_or_have_4_channels() -> None:
    """And never fewer: a group of one channel removes the time that is added to it."""
    groups = {channels: group_norm(channels).num_groups for channels in (8, 24, 48, 128, 192, 288)}
    assert groups == {8: 2, 24: 2, 48: 4, 128: 32, 192: 32, 288: 32}
    assert group_norm(64, groups=8).num_groups == 8


def test_glorot_draws_the_published_variances_and_leaves_zeros() -> None:
    torch.manual_seed(0)
    network = UNetConfig(channels=64, multipliers=(1,), initialization="glorot").build(
        (3, 16, 16), 0
    )
    block, attention = network.middle[0].block, network.middle[0].attention
    assert block.conv_1.weight.var().item() == pytest.approx(2 / (9 * 128), rel=0.05)
    assert attention.qkv.weight.var().item() == pytest.approx(2 / 128, rel=0.05)
    assert not block.conv_1.bias.any()
    for zero in (block.conv_2, attention.out, network.head):
        assert not zero.weight.any()
    glorot(network, attention_variance=0.1)
    assert attention.qkv.weight.var().item() == pytest.approx(0.2 / 128, rel=0.05)


def test_statistics_are_float32_under_bfloat16() -> None:
    """A large mean would swallow the deviations if they were summed in bfloat16."""
    torch.manual_seed(0)
    x = (3 * torch.randn(2, 32, 16, 16) + 20).bfloat16()
    for norm in (group_norm(32), nn.LayerNorm(16)):
        with torch.autocast("cpu", torch.bfloat16):
            found = norm(x).double()
        expected = norm.double()(x.double())
        # what remains is the rounding of the result to 8 bits
        torch.testing.assert_close(found, expected, atol=2**-8, rtol=2**-8)


def test_the_time_is_embedded_in_float32_under_bfloat16() -> None:
    torch.manual_seed(0)
    embed = TimeEmbedding(32, 64)
    steps = torch.arange(990.0, 1000.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = embed(steps)
    assert found.dtype == torch.float32
    assert torch.equal(found, embed(steps))


def test_a_size_that_does_not_divide_is_refused_with_the_arithmetic() -> None:
    config = UNetConfig(channels=8, multipliers=(1, 1, 1, 1), attention=())
    with pytest.raises(
        ConfigError, match=r"height 28 is not divisible by 2\^3 = 8.*3 multipliers.*=32"
    ):
        config.build((1, 28, 28), 0)


def test_attention_at_a_height_that_does_not_occur_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"height 16, but the levels have heights \[8, 4\]"):
        UNetConfig(channels=8, multipliers=(1, 2), attention=(16,)).build((1, 8, 8), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 0},
        {"channels": 5},
        {"heads": 3},
        {"head_channels": 48},
        {"dropout": 1.0},
        {"blocks": 0},
        {"groups": 0},
    ],
)
def test_impossible_values_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        UNetConfig(**change)
