"""Building blocks shared by the networks."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, as in DDPM, or fewer, so that a group has at least 4 channels.

    A group of one channel would remove whatever is added to the channel as a whole, and that is
    how the time and the class come in.
    """
    return nn.GroupNorm(math.gcd(32, max(1, channels // 4), channels), channels, eps=1e-6)


def zero_initialized(module: nn.Conv2d) -> nn.Conv2d:
    """`module` with its parameters set to zero, so that a residual branch starts as nothing."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class SinusoidalEmbedding(nn.Module):
    """Maps a noise label to sines and cosines of geometrically spaced frequencies.

    Source: Vaswani et al. 2017, section 3.5, as DDPM uses it: `dim / 2` frequencies from 1 down
    to 1 / max_period. Computed in float32 whatever the autocast precision: bfloat16 cannot tell
    step 999 from step 1000.
    """

    frequencies: Tensor

    def __init__(self, dim: int, max_period: float = 10_000.0) -> None:
        super().__init__()
        half = dim // 2
        exponents = torch.arange(half, dtype=torch.float32) / (half - 1)
        self.register_buffer("frequencies", max_period**-exponents, persistent=False)

    def forward(self, noise_label: Float[Tensor, " B"]) -> Float[Tensor, "B dim"]:
        angles = noise_label.float()[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm and SiLU, conditioned on an embedding.

    Source: Ho et al. 2020, appendix B; with `scale_shift`, the adaptive group normalization of
    Dhariwal & Nichol 2021: the embedding scales and shifts the second normalization's output.
    """

    def __init__(
        self, channels: int, out_channels: int, embedding: int, dropout: float, scale_shift: bool
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.norm_1 = group_norm(channels)
        self.conv_1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.project = nn.Linear(embedding, out_channels * (2 if scale_shift else 1))
        self.norm_2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero_initialized(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def forward(
        self, x: Float[Tensor, "B C H W"], embedding: Float[Tensor, "B E"]
    ) -> Float[Tensor, "B D H W"]:
        h = self.conv_1(F.silu(self.norm_1(x)))
        condition = self.project(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        else:
            h = self.norm_2(h + condition)
        h = self.conv_2(self.dropout(F.silu(h)))
        return self.skip(x) + h  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head self-attention over the positions of a feature map, as a residual branch."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_initialized(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, 3, self.heads, channels // self.heads, -1)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return x + self.out(h.reshape(batch, channels, height, width))  # type: ignore[no-any-return]


class Downsample(nn.Conv2d):
    """Halves the resolution by a strided 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Module):
    """Doubles the resolution: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]
