"""StyleGAN2: mapping network, skip generator, residual discriminator (Karras et al. 2020)."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core import distributed
from sfumato.core.config import Fraction, NonNegativeInt, PositiveInt, component
from sfumato.core.errors import ConfigError
from sfumato.core.generative_model import Blocks
from sfumato.core.images import Labels, Shape
from sfumato.core.noise import RandomStream
from sfumato.networks.adversarial import NEEDS_LABELS, Conditioning, TiledLabels
from sfumato.networks.shapes import Latents, Maps
from sfumato.networks.stylegan2_layers import (
    EqualizedConv,
    EqualizedLinear,
    StyledLayer,
    ToImage,
    UnitClassEmbedding,
    binomial_filter,
    blur,
    double,
    leaky,
    minibatch_deviation,
    unit_size,
)

AVERAGE_DECAY = 0.995
"""Share of the old mean of w that a batch leaves (Karras et al. 2020)."""
MAPPING_RATE = 0.01
"""The mapping network learns this much slower (Karras et al. 2019, section 4)."""


@component
class StyleGAN2Config:
    """The pair of networks of StyleGAN2, for square images whose size is a power of 2.

    A layer at R x R has channel_base / R channels, at most channel_max. The published sizes for
    64 pixels are the defaults but for mapping_layers; the blocks below `reduced_from` stay in
    float32 when training.precision is lower.

    Args:
        latent_dim, style_dim: sizes of z and w.
        mapping_layers: from z to w.
        style_mixing: probability that an image in training takes its later layers from another w.
        residual: whether the blocks of the discriminator have a skip connection.
        group_size: images over which the discriminator sees the spread.
        conditioning: how the class enters the discriminator. The generator's mapping network has
            the embedded label beside z.
        label_channels: size of the class embedding in extra channels, with tiled conditioning.
        truncation: samples are drawn with w moved to its mean, to this share of the distance.
        truncation_layers: only in that many first layers; None: in all.
        random_noise: samples have noise of their own (of their seed) in the layers, or the noise
            that belongs to the layer.
        reduced_from: the smallest resolution that is computed in a lower precision.
    """

    mixes_images: ClassVar[bool] = False
    bounded_slope: ClassVar[bool] = False
    has_styles: ClassVar[bool] = True
    kind: Literal["stylegan2"] = "stylegan2"
    latent_dim: PositiveInt = 512
    style_dim: PositiveInt = 512
    mapping_layers: PositiveInt = 8
    channel_base: PositiveInt = 16384
    channel_max: PositiveInt = 512
    style_mixing: Fraction = 0.9
    residual: bool = True
    group_size: PositiveInt = 4
    conditioning: Conditioning = "projection"
    label_channels: PositiveInt = 16
    truncation: float = 1.0
    truncation_layers: NonNegativeInt | None = None
    random_noise: bool = True
    reduced_from: int = 8

    def build(
        self, image_shape: Shape, num_classes: int
    ) -> tuple["StyleGAN2Generator", "StyleGAN2Discriminator"]:
        """The generator and the discriminator for images of `image_shape`.

        Raises:
            ConfigError: the image is not square, or its size is no power of 2 from 8 up.
        """
        _, height, width = image_shape
        if height != width or height < 8 or height.bit_count() != 1:
            raise ConfigError(
                f"stylegan2 doubles from 4x4 to a square image, and {height}x{width} is no such "
                "size; set data.resolution to 8, 16, 32, 64, ..."
            )
        return (
            StyleGAN2Generator(self, image_shape, num_classes),
            StyleGAN2Discriminator(self, image_shape, num_classes),
        )

    def channels(self, resolution: int) -> int:
        """Width of the layers at a resolution."""
        return max(1, min(self.channel_base // resolution, self.channel_max))


class StyleGAN2Generator(nn.Module):
    """z (and a class) to w, and w to an image of about [-1, 1]."""

    average_w: Tensor

    def __init__(self, config: StyleGAN2Config, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.latent_dim = config.latent_dim
        style_dim, resolution = config.style_dim, image_shape[1]
        self.embed = UnitClassEmbedding(num_classes, style_dim) if num_classes else None
        inputs = config.latent_dim + (style_dim if num_classes else 0)
        self.mapping = Blocks(
            EqualizedLinear(inputs if i == 0 else style_dim, style_dim, rate=MAPPING_RATE)
            for i in range(config.mapping_layers)
        )
        self.register_buffer("average_w", torch.zeros(style_dim))
        self.start = nn.Parameter(torch.randn(config.channels(4), 4, 4))
        self.blocks = Blocks(
            GeneratorBlock(config, 2**k, image_shape[0]) for k in range(2, resolution.bit_length())
        )
        self.noise_sizes = [4, *(2**k for k in range(3, resolution.bit_length()) for _ in range(2))]
        """The resolution of each layer with noise: one at 4x4, then two per block."""
        self.num_layers = len(self.noise_sizes) + 1
        """Layers that have a w of their own; an image layer shares that of the next block."""

    def map(self, z: Latents, labels: Labels | None = None) -> Float[Tensor, "B S"]:
        """w of z."""
        with torch.autocast(z.device.type, enabled=False):
            x = unit_size(z.float())
            if self.embed is not None:
                assert labels is not None, NEEDS_LABELS
                x = torch.cat([x, self.embed(labels)], dim=1)
            for layer in self.mapping:
                x = leaky(self.mapping.run(layer, x))
        return x

    def truncated(self, w: Float[Tensor, "B S"]) -> Float[Tensor, "B L S"]:
        """w for each layer, moved to the mean w as the config says."""
        styles = w[:, None].repeat(1, self.num_layers, 1)
        if self.config.truncation != 1:
            some = styles[:, : self.config.truncation_layers]
            some.copy_(torch.lerp(self.average_w, some, self.config.truncation))
        return styles

    def draw(self, styles: Float[Tensor, "B L S"], noise: RandomStream | None = None) -> Maps:
        """The images of a w for each layer; without `noise` with that of the layers."""
        sizes = self.noise_sizes
        fields: list[Tensor | None] = [None] * len(sizes)
        if noise is not None:
            drawn = noise.normal(sum(size**2 for size in sizes)).to(styles)
            parts = torch.split(drawn, [size**2 for size in sizes], dim=1)
            fields = [f.view(-1, 1, n, n) for f, n in zip(parts, sizes, strict=True)]
        x = self.start.expand(len(styles), -1, -1, -1)
        image, layer = None, 0
        for block in self.blocks:
            end = layer + 2 if layer else 1  # 4x4 has one layer, the others two
            given = x, image, styles[:, layer : end + 1], fields[layer:end]
            x, image = self.blocks.run(block, *given)
            layer = end
        assert image is not None
        return image  # type: ignore[no-any-return]

    def with_styles(
        self, z: Latents, labels: Labels | None, noise: RandomStream | None
    ) -> tuple[Maps, Float[Tensor, "B L S"]]:
        """Images as in training, and the w of each of their layers."""
        w = self.map(z, labels)
        if torch.is_grad_enabled():
            self._average(w.detach())
        styles = w[:, None].expand(-1, self.num_layers, -1)
        if noise is not None and self.config.style_mixing > 0:
            other = self.map(noise.normal(self.latent_dim).to(z), labels)
            mixed = noise.uniform() < self.config.style_mixing
            cut = torch.where(mixed, 1 + noise.integers(self.num_layers - 1), self.num_layers)
            later = torch.arange(self.num_layers) >= cut[:, None]
            styles = torch.where(later.to(z.device)[:, :, None], other[:, None], styles)
        return self.draw(styles, noise), styles

    def forward(
        self, z: Latents, labels: Labels | None = None, noise: RandomStream | None = None
    ) -> Maps:
        """Training mixes styles; otherwise they are truncated."""
        if self.training:
            return self.with_styles(z, labels, noise)[0]
        styles = self.truncated(self.map(z, labels))
        return self.draw(styles, noise if self.config.random_noise else None)

    @torch.no_grad()
    def _average(self, w: Float[Tensor, "B S"]) -> None:
        """Move the mean of w by those of a batch, over all processes."""
        total = torch.cat([w.sum(0), w.new_tensor([float(len(w))])])
        total = distributed.all_reduce_sum(total)
        self.average_w.lerp_(total[:-1] / total[-1], 1 - AVERAGE_DECAY)


class GeneratorBlock(nn.Module):
    """Two layers (at 4x4 one) of a resolution, and what they add to the image."""

    kernel: Tensor

    def __init__(self, config: StyleGAN2Config, resolution: int, image_channels: int) -> None:
        super().__init__()
        width, style_dim = config.channels(resolution), config.style_dim
        self.resolution = resolution
        self.reduced = resolution >= config.reduced_from
        self.up = resolution > 4
        layers = [StyledLayer(width, width, resolution, style_dim, up=False)]
        if self.up:
            before = config.channels(resolution // 2)
            layers.insert(0, StyledLayer(before, width, resolution, style_dim, up=True))
        self.layers = nn.ModuleList(layers)
        self.to_image = ToImage(width, image_channels, style_dim)
        self.register_buffer("kernel", binomial_filter())

    def forward(
        self,
        x: Maps,
        image: Float[Tensor, "B I H W"] | None,
        styles: Float[Tensor, "B l S"],
        noise: list[Tensor | None],
    ) -> tuple[Float[Tensor, "B D M N"], Float[Tensor, "B I M N"]]:
        with _precision(x, self.reduced):
            for i, layer in enumerate(self.layers):
                x = layer(x, styles[:, i], noise[i])
            added = self.to_image(x, styles[:, -1])
        with _precision(x, False):
            return x, added if image is None else double(image, self.kernel) + added


class StyleGAN2Discriminator(nn.Module):
    """An image (and a class) to a logit: high for real."""

    def __init__(self, config: StyleGAN2Config, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.config = config
        tiled = num_classes > 0 and config.conditioning == "tiled"
        self.label = TiledLabels(num_classes, config.label_channels) if tiled else None
        channels, resolution = image_shape[0], image_shape[1]
        channels += config.label_channels if tiled else 0
        self.from_image = EqualizedConv(channels, config.channels(resolution), 1)
        self.blocks = Blocks(
            DiscriminatorBlock(config, 2**k) for k in range(resolution.bit_length() - 1, 2, -1)
        )
        width = config.channels(4)
        self.conv = EqualizedConv(width + 1, width, 3)
        self.dense = EqualizedLinear(width * 16, width)
        projected = num_classes > 0 and config.conditioning == "projection"
        self.embed = UnitClassEmbedding(num_classes, width) if projected else None
        self.judge = EqualizedLinear(width, width if projected else 1)

    def forward(self, x: Maps, labels: Labels | None = None) -> Float[Tensor, " B"]:
        if self.label is not None:
            x = self.label(x, labels)
        with _precision(x, x.shape[2] >= self.config.reduced_from):
            x = self.from_image(x)
        for block in self.blocks:
            x = self.blocks.run(block, x)
        with _precision(x, self.config.reduced_from <= 4):
            x = self.conv(minibatch_deviation(x.float(), self.config.group_size))
            x = self.judge(leaky(self.dense(x.flatten(1))))
        if self.embed is None:
            return x.flatten()
        assert labels is not None, NEEDS_LABELS
        return (x.float() * self.embed(labels)).sum(1) / math.sqrt(x.shape[1])  # type: ignore[no-any-return]


class DiscriminatorBlock(nn.Module):
    """Two convolutions to half the resolution, and a skip connection."""

    kernel: Tensor

    def __init__(self, config: StyleGAN2Config, resolution: int) -> None:
        super().__init__()
        width, wider = config.channels(resolution), config.channels(resolution // 2)
        self.reduced = resolution >= config.reduced_from
        self.conv_1 = EqualizedConv(width, width, 3)
        self.conv_2 = EqualizedConv(width, wider, 3, down=True)
        residual = config.residual
        self.skip = EqualizedConv(width, wider, 1, bias=False) if residual else None
        self.register_buffer("kernel", binomial_filter())

    def forward(self, x: Maps) -> Float[Tensor, "B D M N"]:
        with _precision(x, self.reduced):
            h = self.conv_2(self.conv_1(x))
            if self.skip is None:
                return h  # type: ignore[no-any-return]
            skipped = self.skip(blur(x, self.kernel, padding=1, stride=2))
            return (h + skipped) / math.sqrt(2)  # type: ignore[no-any-return]


def _precision(x: Tensor, reduced: bool) -> AbstractContextManager[object]:
    """The precision of training where it may be reduced, else float32."""
    return nullcontext() if reduced else torch.autocast(x.device.type, enabled=False)
