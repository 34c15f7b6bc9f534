"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2024, config G), and its layers.

The layers keep the magnitude of their input (section 2 and appendix B): weights are used at unit
norm and are put back to it after every optimizer step. Activations of unit variance then keep it in
expectation, without normalization layers.
"""

import math
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.config import PositiveFloat, PositiveInt, component
from sfumato.core.generative_model import Blocks
from sfumato.core.images import Labels, Shape
from sfumato.networks.layers import full_precision, resampled
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
SILU_RMS = 0.596
"""Root mean square of SiLU on standard normal numbers (eq. 81)."""


def unit_rms(x: Tensor, dims: tuple[int, ...], eps: float = 1e-4) -> Tensor:
    """x divided by its root mean square over `dims`, which is taken in float32 at least."""
    count = math.prod(x.shape[dim] for dim in dims)
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=dtype)
    return x / (norm / math.sqrt(count) + eps).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU, scaled to unit variance for standard normal numbers."""
    return F.silu(x) / SILU_RMS


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 - t) a + t b, scaled to the variance of its independent parts (eq. 88)."""
    return torch.lerp(a, b.to(a.dtype), t) / math.hypot(1 - t, t)


def mp_cat(a: Maps, b: Float[Tensor, "B D H W"]) -> Float[Tensor, "B E H W"]:
    """Joined channels, scaled so that both parts contribute equally downstream (eq. 103)."""
    channels_a, channels_b = a.shape[1], b.shape[1]
    half = math.sqrt((channels_a + channels_b) / 2)
    return torch.cat([a * (half / math.sqrt(channels_a)), b * (half / math.sqrt(channels_b))], 1)


class MPLayer(nn.Module):
    """A linear layer or convolution without bias whose weights have unit norm per output.

    Args:
        kernel: side of the kernel of a convolution; 0 is a linear layer.

    Source: Karras et al. 2024, eqs. 47 and 66.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        shape = (out_channels, channels, *([kernel, kernel] if kernel else []))
        self.weight = nn.Parameter(torch.randn(shape))
        self.kernel = kernel
        self.constrain()

    def forward(
        self, x: Float[Tensor, "B C ..."], gain: Tensor | float = 1.0
    ) -> Float[Tensor, "B D ..."]:
        """`gain` is multiplied to the weights."""
        fan_in = self.weight[0].numel()
        # normalized once more, so that the gradient is at right angles to the weights
        weight = self._normalized() * (gain / math.sqrt(fan_in))
        if self.kernel == 0:
            return F.linear(x, weight.to(x.dtype))
        return F.conv2d(x, weight.to(x.dtype), padding=self.kernel // 2)

    @torch.no_grad()
    def constrain(self) -> None:
        """Scale each output's weights to a root mean square of 1."""
        self.weight.copy_(self._normalized())

    def _normalized(self) -> Tensor:
        return unit_rms(self.weight, tuple(range(1, self.weight.dim())))


class MPFourier(nn.Module):
    """Cosines of random frequencies and phases, of unit variance (eq. 75). In float32."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(dim))
        self.register_buffer("phases", 2 * math.pi * torch.rand(dim))

    def forward(self, noise_label: Float[Tensor, " B"]) -> Float[Tensor, "B dim"]:
        angles = torch.outer(noise_label.float(), self.frequencies) + self.phases
        return math.sqrt(2) * angles.cos()


class MPClassEmbedding(nn.Module):
    """A vector for each class and for the null class, which is the last."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.num_rows = num_classes + 1
        self.linear = MPLayer(self.num_rows, dim, 0)

    def forward(self, labels: Labels | None, count: int) -> Embedding:
        """The vectors of `labels`; None means `count` times the null class."""
        if labels is None:
            device = self.linear.weight.device
            labels = torch.full((count,), self.num_rows - 1, device=device)
        one_hot = F.one_hot(labels, self.num_rows).to(self.linear.weight.dtype)
        return self.linear(one_hot * math.sqrt(self.num_rows))  # type: ignore[no-any-return]


@runtime_checkable
class Constrained(Protocol):
    """A layer whose weights are confined to a set."""

    def constrain(self) -> None:
        """Put the weights back into the set."""
        ...


def constraint(network: nn.Module) -> Callable[[], None] | None:
    """The function to call after each optimizer step of a network; None if there is none."""
    layers = [layer for layer in network.modules() if isinstance(layer, Constrained)]
    if not layers:
        return None

    def constrain() -> None:
        for layer in layers:
            layer.constrain()

    return constrain


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
