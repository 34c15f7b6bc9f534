"""The U-Net of the DDPM and ADM line (Ho et al. 2020; Dhariwal & Nichol 2021)."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.blocks import Blocks
from sfumato.core.config import component
from sfumato.core.images import Shape
from sfumato.networks.layers import (
    ClassEmbedding,
    Downsample,
    Resample,
    ResidualBlock,
    SelfAttention,
    TimeEmbedding,
    Upsample,
    ZeroConv2d,
    glorot,
    group_norm,
    norm_silu,
)
from sfumato.networks.shapes import check_attention, check_halvings

Part = Literal["down", "middle", "up"]


@component
class UNetConfig:
    """A U-Net of residual blocks.

    Args:
        channels: width of the first level.
        multipliers: width of each level in units of `channels`; each level after the first halves
            the resolution.
        blocks: residual blocks a level (one more on the way up): depth, against width.
        attention: heights of the feature maps that get self-attention; the middle always does.
        heads: attention heads.
        head_channels: channels of each head, in place of a number of heads.
        dropout: probability, inside the residual blocks.
        conditioning: how the time and class embedding enters a block: "add", or "scale_shift"
            (adaptive group normalization).
        class_maps: parts of the network where the class is joined to the input of every residual
            block as a channel: embedding, linear layer, reshaped to a map. () adds the class
            embedding to that of the time instead.
        resampling: halve and double by "convolution", or by "residual" blocks (BigGAN).
        downsampling_pad: of a strided convolution; "end" pads below and on the right only (Ho et
            al. 2020), "both" on all sides (Dhariwal & Nichol 2021).
        patch: pixel-unshuffle factor of the stem; 2 makes the network see a quarter of the
            positions with four times the channels, about four times as fast.
        groups: of the normalization, where that leaves at least 4 channels a group.
        initialization: "glorot" (Ho et al. 2020), or "torch", the layers' own (Dhariwal & Nichol
            2021). The last convolution of each branch and of the network starts as zero.
    """

    kind: Literal["unet"] = "unet"
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    heads: int = 1
    head_channels: int | None = None
    dropout: float = 0.0
    conditioning: Literal["add", "scale_shift"] = "add"
    class_maps: tuple[Part, ...] = ()
    resampling: Literal["convolution", "residual"] = "convolution"
    downsampling_pad: Literal["both", "end"] = "both"
    patch: int = 1
    groups: int = 32
    initialization: Literal["torch", "glorot"] = "torch"

    def __post_init__(self) -> None:
        for name in ("channels", "blocks", "heads", "patch", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"unet needs {name} >= 1, got {name}={getattr(self, name)}")
        if self.channels % 2 or self.channels < 4:
            raise ValueError(
                f"unet needs an even number of channels, at least 4, got channels={self.channels}"
            )
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"unet needs multipliers >= 1, got {list(self.multipliers)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"unet needs 0 <= dropout < 1, got dropout={self.dropout}")
        if self.head_channels is not None and (self.head_channels < 1 or self.heads != 1):
            raise ValueError(
                f"unet needs head_channels >= 1, and then no heads, got "
                f"head_channels={self.head_channels}, heads={self.heads}"
            )
        name = "heads" if self.head_channels is None else "head_channels"
        divisor = self.heads if self.head_channels is None else self.head_channels
        widths = [self.channels * m for m in self.multipliers]
        if any(width % divisor for width in widths):
            raise ValueError(f"unet widths {widths} must be divisible by {name}={divisor}")

    def build(
        self, image_shape: Shape, num_classes: int, out_channels: int | None = None
    ) -> "UNet":
        """The network for images of `image_shape`.

        Raises:
            ConfigError: the levels do not divide the image, or no level has an attention height.
        """
        levels = len(self.multipliers)
        check_halvings("unet", image_shape, levels - 1, "multipliers", self.patch)
        check_attention("unet", image_shape[1] // self.patch, levels, self.attention)
        return UNet(self, image_shape, num_classes, out_channels or image_shape[0])


class UNet(nn.Module):
    """Maps a noisy image, its noise label and its class to an output image."""

    def __init__(
        self, config: UNetConfig, image_shape: Shape, num_classes: int, out_channels: int
    ) -> None:
        super().__init__()
        self.patch = config.patch
        width = config.channels
        embedding = 4 * width
        self.embed_time = TimeEmbedding(width, embedding)
        self.embed_class = ClassEmbedding(num_classes, embedding) if num_classes else None
        self.class_is_added = not config.class_maps

        size = (image_shape[1] // self.patch, image_shape[2] // self.patch)
        scale_shift = config.conditioning == "scale_shift"

        def attention(channels: int) -> SelfAttention:
            heads = channels // config.head_channels if config.head_channels else config.heads
            return SelfAttention(channels, heads, groups=config.groups)

        def stage(
            channels: int,
            out: int,
            part: Part,
            *,
            skip: int = 0,
            attend: bool = False,
            resample: Resample | None = None,
        ) -> Stage:
            joins = bool(num_classes) and part in config.class_maps
            block = ResidualBlock(
                channels + skip + joins,
                out,
                embedding,
                config.dropout,
                scale_shift,
                resample=resample,
                groups=config.groups,
            )
            class_map = ClassMap(embedding, size) if joins else None
            return Stage(block, attention(out) if attend else None, class_map, bool(skip))

        def resampling(channels: int, how: Resample) -> Stage:
            if config.resampling == "residual":
                return stage(channels, channels, how, resample=how)
            if how == "up":
                return Stage(Upsample(channels))
            return Stage(Downsample(channels, config.downsampling_pad == "end"))

        self.stem = nn.Conv2d(image_shape[0] * self.patch**2, width, 3, padding=1)
        skips = [width]  # channels of the maps handed across
        self.down = Blocks()
        for level, multiplier in enumerate(config.multipliers):
            if level > 0:
                self.down.append(resampling(width, "down"))
                size = (size[0] // 2, size[1] // 2)
                skips.append(width)
            for _ in range(config.blocks):
                out = config.channels * multiplier
                self.down.append(stage(width, out, "down", attend=size[0] in config.attention))
                width = out
                skips.append(width)

        self.middle = Blocks(
            [stage(width, width, "middle", attend=True), stage(width, width, "middle")]
        )

        self.up = Blocks()
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            out = config.channels * multiplier
            for _ in range(config.blocks + 1):
                attend = size[0] in config.attention
                self.up.append(stage(width, out, "up", skip=skips.pop(), attend=attend))
                width = out
            if level > 0:
                self.up.append(resampling(width, "up"))
                size = (size[0] * 2, size[1] * 2)
        self.norm = group_norm(width, config.groups)
        self.head = ZeroConv2d(width, out_channels * self.patch**2, 3, padding=1)
        if config.initialization == "glorot":
            glorot(self)

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        noise_label: Float[Tensor, " B"],
        labels: Int64[Tensor, " B"] | None = None,
        augment_labels: Float[Tensor, "B A"] | None = None,
    ) -> Float[Tensor, "B D H W"]:
        embedding = self.embed_time(noise_label, augment_labels=augment_labels)
        class_vector = None
        if self.embed_class is not None:
            class_vector = self.embed_class(labels, len(x))
            if self.class_is_added:
                embedding = embedding + class_vector
        embedding = F.silu(embedding)

        h = self.stem(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        skips = [h]
        for stage in self.down:
            h = self.down.run(stage, h, embedding, class_vector, None)
            skips.append(h)
        for stage in self.middle:
            h = self.middle.run(stage, h, embedding, class_vector, None)
        for stage in self.up:
            skip = skips.pop() if stage.takes_skip else None
            h = self.up.run(stage, h, embedding, class_vector, skip)
        h = self.head(norm_silu(self.norm, h))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h


class ClassMap(nn.Module):
    """A class as one channel of a feature map: a linear layer from its vector, reshaped."""

    def __init__(self, embedding: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Linear(embedding, size[0] * size[1])

    def forward(self, class_vector: Float[Tensor, "B E"]) -> Float[Tensor, "B 1 H W"]:
        return self.linear(class_vector).unflatten(1, (1, *self.size))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """A residual block (or a change of resolution), what joins its input, the attention after it.

    Args:
        takes_skip: a map from the way down is joined to the input.
    """

    def __init__(
        self,
        block: nn.Module,
        attention: nn.Module | None = None,
        class_map: nn.Module | None = None,
        takes_skip: bool = False,
    ) -> None:
        super().__init__()
        self.class_map = class_map
        self.block = block
        self.attention = attention
        self.takes_skip = takes_skip

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        embedding: Float[Tensor, "B E"],
        class_vector: Float[Tensor, "B E"] | None,
        skip: Float[Tensor, "B S H W"] | None,
    ) -> Float[Tensor, "B D H2 W2"]:
        joined = [x] if skip is None else [x, skip]
        if self.class_map is not None:
            joined.append(self.class_map(class_vector).to(x))
        x = self.block(torch.cat(joined, dim=1) if len(joined) > 1 else x, embedding)
        return x if self.attention is None else self.attention(x)
