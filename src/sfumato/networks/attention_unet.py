"""The attention U-Net that many small projects use."""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.config import PositiveInt, component
from sfumato.core.generative_model import Blocks
from sfumato.core.images import Labels, Shape
from sfumato.networks.layers import ClassEmbedding, SinusoidalEmbedding, attend_tokens, conditioning
from sfumato.networks.shapes import (
    Embedding,
    EvenWidth,
    Maps,
    TwoMultipliers,
    check_halvings,
    check_heads,
)
from sfumato.speed.kernels.fused_layers import Attention, GroupNorm


@component
class AttentionUNetConfig:
    """A U-Net of double convolutions with self-attention after every level.

    As it stands it has 23,332,739 parameters for 3-channel images. Two levels:
    `multipliers = [1, 2, 4]` and `bottleneck_blocks = 2`; half as wide: `channels = 32`.

    Args:
        channels: width at full resolution.
        multipliers: width of each level in units of `channels`; each after the first is half as
            high and wide.
        bottleneck: width inside the bottleneck, in units of `channels`.
        bottleneck_blocks: double convolutions at the lowest resolution, at least 2.
        time_features: size of the sinusoidal embedding.
        heads: attention heads.
    """

    kind: Literal["attention_unet"] = "attention_unet"
    channels: PositiveInt = 64
    multipliers: TwoMultipliers = (1, 2, 4, 4)
    bottleneck: PositiveInt = 8
    bottleneck_blocks: Annotated[int, Field(ge=2)] = 3
    time_features: EvenWidth = 256
    heads: PositiveInt = 4

    def __post_init__(self) -> None:
        widths = [self.channels * m for m in self.multipliers]
        check_heads("attention_unet", widths, "heads", self.heads)

    def build(
        self, image_shape: Shape, num_classes: int, out_channels: int | None = None
    ) -> "AttentionUNet":
        """The network for images of `image_shape`.

        Raises:
            ConfigError: the levels do not divide the image.
        """
        check_halvings("attention_unet", image_shape, len(self.multipliers) - 1, "multipliers")
        return AttentionUNet(self, image_shape[0], num_classes, out_channels or image_shape[0])


class AttentionUNet(nn.Module):
    """Maps a noisy image, its noise label and its class to an output image."""

    def __init__(
        self, config: AttentionUNetConfig, channels: int, num_classes: int, out_channels: int
    ) -> None:
        super().__init__()
        features, heads = config.time_features, config.heads
        widths = [config.channels * m for m in config.multipliers]
        inner = config.channels * config.bottleneck
        self.embed_time = SinusoidalEmbedding(features)
        self.embed_class = ClassEmbedding(num_classes, features) if num_classes else None
        self.stem = DoubleConvolution(channels, widths[0])
        self.down = Blocks(Down(width, out, features, heads) for width, out in pairwise(widths))
        across = [widths[-1], *[inner] * (config.bottleneck_blocks - 1), widths[-1]]
        self.middle = Blocks(DoubleConvolution(*step) for step in pairwise(across))
        self.up = Blocks()
        width = widths[-1]
        for level in reversed(range(len(widths) - 1)):
            out = widths[max(0, level - 1)]
            self.up.append(Up(width + widths[level], out, features, heads))
            width = out
        self.head = nn.Conv2d(width, out_channels, 1)

    def forward(
        self, x: Maps, noise_label: Float[Tensor, " B"], labels: Labels | None = None
    ) -> Float[Tensor, "B D H W"]:
        embedding = conditioning(self.embed_time, self.embed_class, noise_label, labels)
        h = self.stem(x)
        skips = []
        for level in self.down:
            skips.append(h)
            h = self.down.run(level, h, embedding)
        for block in self.middle:
            h = self.middle.run(block, h)
        for level in self.up:
            h = self.up.run(level, h, skips.pop(), embedding)
        return self.head(h)  # type: ignore[no-any-return]


class DoubleConvolution(nn.Module):
    """Two 3x3 convolutions, each with GroupNorm(1), and a GELU between them.

    Args:
        residual: add the input, and a GELU after it.
    """

    def __init__(
        self, channels: int, out_channels: int, inner: int | None = None, residual: bool = False
    ) -> None:
        super().__init__()
        inner = inner or out_channels
        self.residual = residual
        self.conv_1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.norm_1 = GroupNorm(1, inner)
        self.conv_2 = nn.Conv2d(inner, out_channels, 3, padding=1, bias=False)
        self.norm_2 = GroupNorm(1, out_channels)

    def forward(self, x: Maps) -> Float[Tensor, "B D H W"]:
        h: Tensor = self.norm_2(self.conv_2(self.norm_1(self.conv_1(x), activation="gelu")))
        return F.gelu(x + h) if self.residual else h


class Down(nn.Module):
    """Max-pooling, two double convolutions, the time added, attention."""

    def __init__(self, channels: int, out_channels: int, features: int, heads: int) -> None:
        super().__init__()
        self.conv_1 = DoubleConvolution(channels, channels, residual=True)
        self.conv_2 = DoubleConvolution(channels, out_channels)
        self.project = nn.Linear(features, out_channels)
        self.attention = AttentionBlock(out_channels, heads)

    def forward(self, x: Maps, embedding: Embedding) -> Float[Tensor, "B D H2 W2"]:
        h = self.conv_2(self.conv_1(F.max_pool2d(x, 2)))
        return self.attention(h + self.project(embedding)[:, :, None, None])  # type: ignore[no-any-return]


class Up(nn.Module):
    """Bilinear upsampling, the skip joined, two double convolutions, the time added, attention."""

    def __init__(self, channels: int, out_channels: int, features: int, heads: int) -> None:
        super().__init__()
        self.conv_1 = DoubleConvolution(channels, channels, residual=True)
        self.conv_2 = DoubleConvolution(channels, out_channels, channels // 2)
        self.project = nn.Linear(features, out_channels)
        self.attention = AttentionBlock(out_channels, heads)

    def forward(
        self, x: Maps, skip: Float[Tensor, "B S H2 W2"], embedding: Embedding
    ) -> Float[Tensor, "B D H2 W2"]:
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
        h = self.conv_2(self.conv_1(torch.cat([skip, x], dim=1)))
        return self.attention(h + self.project(embedding)[:, :, None, None])  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """A transformer block over positions: multi-head self-attention, then two linear layers."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.attend = Attention()
        self.out = nn.Linear(channels, channels)
        self.norm_2 = nn.LayerNorm(channels)
        self.linear_1 = nn.Linear(channels, channels)
        self.linear_2 = nn.Linear(channels, channels)
        # as torch.nn.MultiheadAttention starts
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Maps) -> Maps:
        batch, channels, height, width = x.shape
        tokens: Tensor = x.flatten(2).transpose(1, 2)
        attended = attend_tokens(self.attend, self.qkv(self.norm_1(tokens)), self.heads)
        tokens = tokens + self.out(attended)
        tokens = tokens + self.linear_2(F.gelu(self.linear_1(self.norm_2(tokens))))
        return tokens.transpose(1, 2).reshape(batch, channels, height, width)
