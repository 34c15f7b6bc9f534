"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2024, config G)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.config import PositiveFloat, PositiveInt, component
from sfumato.core.generative_model import Blocks
from sfumato.core.images import Labels, Shape
from sfumato.networks.layers import full_precision, resampled
from sfumato.networks.mp_layers import (
    MPClassEmbedding,
    MPFourier,
    MPLayer,
    mp_cat,
    mp_silu,
    mp_sum,
    unit_rms,
)
from sfumato.networks.shapes import (
    Dropout,
    Embedding,
    Maps,
    Multipliers,
    Step,
    check_attention,
    check_halvings,
    check_heads,
    unet_steps,
)
from sfumato.speed.kernels.fused_layers import Attention

BRANCH = 0.3
"""Share of a residual branch or of attention in the sum with its input."""
CLASS = 0.5
"""Share of the class in the embedding."""
LARGEST = 256.0
"""Activations are clipped to this, as a safeguard of float16."""


@component
class EDM2Config:
    """EDM2's network; as it stands EDM2-S (280 M parameters), with `channels = 128` EDM2-XS.

    Made for `parameterization.kind = "edm"`, whose noise label is log(sigma) / 4.

    Args:
        channels: width in whose units the multipliers are.
        multipliers: width of each level; each after the first halves the resolution.
        blocks: residual blocks per level (one more on the way up).
        attention: heights of the feature maps that get self-attention; the middle always does.
        head_channels: channels of each attention head.
        dropout: probability, inside the residual blocks.
        label_scale: multiplies the noise label: 1 for edm, 0.001 for the parameterizations whose
            labels reach 1000.
    """

    kind: Literal["edm2"] = "edm2"
    channels: PositiveInt = 192
    multipliers: Multipliers = (1, 2, 3, 4)
    blocks: PositiveInt = 3
    attention: tuple[int, ...] = (16, 8)
    head_channels: PositiveInt = 64
    dropout: Dropout = 0.0
    label_scale: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        widths = [self.channels * m for m in self.multipliers]
        check_heads("edm2", widths, "head_channels", self.head_channels)

    def build(
        self, image_shape: Shape, num_classes: int, out_channels: int | None = None
    ) -> "EDM2UNet":
        """The network for images of `image_shape`.

        Raises:
            ConfigError: the levels do not divide the image, or no level has an attention height.
        """
        check_halvings("edm2", image_shape, len(self.multipliers) - 1, "multipliers")
        check_attention("edm2", image_shape[1], len(self.multipliers), self.attention)
        return EDM2UNet(self, image_shape, num_classes, out_channels or image_shape[0])


class EDM2UNet(nn.Module):
    """Maps a noisy image, its noise label and its class to an output image."""

    def __init__(
        self, config: EDM2Config, image_shape: Shape, num_classes: int, out_channels: int
    ) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        embedding = max(widths)
        self.label_scale = config.label_scale
        self.fourier = MPFourier(config.channels)
        self.embed_time = MPLayer(config.channels, embedding, 0)
        self.embed_class = MPClassEmbedding(num_classes, embedding) if num_classes else None

        down, middle, up = unet_steps(
            widths[0], widths, config.blocks, image_shape[1:], config.attention
        )
        self.stem = MPLayer(image_shape[0] + 1, widths[0], 3)
        self.down = Blocks(EncoderBlock(config, step, embedding) for step in down)
        self.middle = Blocks(DecoderBlock(config, step, embedding) for step in middle)
        self.up = Blocks(DecoderBlock(config, step, embedding) for step in up)
        self.head = MPLayer(widths[0], out_channels, 3)
        self.head_gain = nn.Parameter(torch.zeros(1))

    def forward(
        self, x: Maps, noise_label: Float[Tensor, " B"], labels: Labels | None = None
    ) -> Float[Tensor, "B D H W"]:
        with full_precision(x):
            embedding = self.embed_time(self.fourier(noise_label * self.label_scale))
            if self.embed_class is not None:
                embedding = mp_sum(embedding, self.embed_class(labels, len(x)), CLASS)
            embedding = mp_silu(embedding)
        # a channel of ones does the work of biases
        h = self.stem(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        skips = [h]
        for block in self.down:
            h = self.down.run(block, h, embedding)
            skips.append(h)
        for block in self.middle:
            h = self.middle.run(block, h, embedding, None)
        for block in self.up:
            skip = skips.pop() if block.takes_skip else None
            h = self.up.run(block, h, embedding, skip)
        return self.head(h, self.head_gain)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """The branch of a block: two convolutions, the embedding as a gain between them."""

    def __init__(self, channels: int, out_channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.conv_1 = MPLayer(channels, out_channels, 3)
        self.project = MPLayer(embedding, out_channels, 0)
        self.gain = nn.Parameter(torch.zeros(1))
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = MPLayer(out_channels, out_channels, 3)

    def forward(self, x: Maps, embedding: Embedding) -> Float[Tensor, "B D H W"]:
        h = self.conv_1(mp_silu(x))
        condition = 1 + self.project(embedding, self.gain)[:, :, None, None]
        h = mp_silu(h * condition.to(h.dtype))
        return self.conv_2(self.dropout(h))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Resampling, width and pixel normalization on the main path, then branch and attention."""

    def __init__(self, config: EDM2Config, step: Step, embedding: int) -> None:
        super().__init__()
        self.resample = step.resample
        channels, out_channels = step.channels, step.out_channels
        self.widen = MPLayer(channels, out_channels, 1) if channels != out_channels else None
        self.residual = Residual(out_channels, out_channels, embedding, config.dropout)
        heads = out_channels // config.head_channels
        self.attention = CosineAttention(out_channels, heads) if step.attends else None

    def forward(self, x: Maps, embedding: Embedding) -> Float[Tensor, "B D H2 W2"]:
        if self.resample is not None:
            x = resampled(x, self.resample)
        if self.widen is not None:
            x = self.widen(x)
        x = unit_rms(x, (1,))
        x = mp_sum(x, self.residual(x, embedding), BRANCH)
        if self.attention is not None:
            x = self.attention(x)
        return x.clamp(-LARGEST, LARGEST)


class DecoderBlock(nn.Module):
    """The skip joined, branch and attention; no normalization."""

    def __init__(self, config: EDM2Config, step: Step, embedding: int) -> None:
        super().__init__()
        self.resample = step.resample
        self.takes_skip = bool(step.skip)
        inputs, out_channels = step.channels + step.skip, step.out_channels
        self.narrow = MPLayer(inputs, out_channels, 1) if inputs != out_channels else None
        self.residual = Residual(inputs, out_channels, embedding, config.dropout)
        heads = out_channels // config.head_channels
        self.attention = CosineAttention(out_channels, heads) if step.attends else None

    def forward(
        self, x: Maps, embedding: Embedding, skip: Float[Tensor, "B S H W"] | None
    ) -> Float[Tensor, "B D H2 W2"]:
        if skip is not None:
            x = mp_cat(x, skip)
        if self.resample is not None:
            x = resampled(x, self.resample)
        h = self.residual(x, embedding)
        x = mp_sum(x if self.narrow is None else self.narrow(x), h, BRANCH)
        if self.attention is not None:
            x = self.attention(x)
        return x.clamp(-LARGEST, LARGEST)


class CosineAttention(nn.Module):
    """Self-attention whose queries, keys and values have unit magnitude each."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = MPLayer(channels, 3 * channels, 1)
        self.attend = Attention()
        self.out = MPLayer(channels, channels, 1)

    def forward(self, x: Maps) -> Maps:
        batch, channels, height, width = x.shape
        qkv: Tensor = self.qkv(x).flatten(2)
        qkv = qkv.view(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = unit_rms(qkv, (3,)).transpose(-1, -2).unbind(1)
        h: Tensor = self.attend(q, k, v).transpose(-1, -2).flatten(1, 2)
        return mp_sum(x, self.out(h.view(batch, channels, height, width)), BRANCH)
