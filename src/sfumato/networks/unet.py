"""The U-Net of the DDPM and ADM line (Ho et al. 2020; Dhariwal & Nichol 2021)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.config import PositiveInt, component
from sfumato.core.generative_model import Blocks
from sfumato.core.images import Labels, Shape
from sfumato.networks.layers import (
    ClassEmbedding,
    Downsample,
    ResidualBlock,
    SelfAttention,
    TimeEmbedding,
    Upsample,
    ZeroConv2d,
    glorot,
    group_norm,
    norm_silu,
)
from sfumato.networks.shapes import (
    Dropout,
    Embedding,
    EvenWidth,
    Maps,
    Multipliers,
    Step,
    check_attention,
    check_halvings,
    check_heads,
    unet_steps,
)

Part = Literal["down", "middle", "up"]


@component
class UNetConfig:
    """A U-Net of residual blocks.

    Args:
        channels: width of the first level.
        multipliers: width of each level in units of `channels`; each level after the first halves
            the resolution.
        blocks: residual blocks per level (one more on the way up): depth, against width.
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
        groups: of the normalization, where that leaves at least 4 channels per group.
        initialization: "glorot" (Ho et al. 2020), or "torch", the layers' own (Dhariwal & Nichol
            2021). The last convolution of each branch and of the network starts as zero.
    """

    kind: Literal["unet"] = "unet"
    channels: EvenWidth = 128
    multipliers: Multipliers = (1, 2, 2, 2)
    blocks: PositiveInt = 2
    attention: tuple[int, ...] = (16,)
    heads: PositiveInt = 1
    head_channels: PositiveInt | None = None
    dropout: Dropout = 0.0
    conditioning: Literal["add", "scale_shift"] = "add"
    class_maps: tuple[Part, ...] = ()
    resampling: Literal["convolution", "residual"] = "convolution"
    downsampling_pad: Literal["both", "end"] = "both"
    patch: PositiveInt = 1
    groups: PositiveInt = 32
    initialization: Literal["torch", "glorot"] = "torch"

    def __post_init__(self) -> None:
        if self.head_channels is not None and self.heads != 1:
            raise ValueError(
                f"unet takes head_channels or heads, got head_channels={self.head_channels} and "
                f"heads={self.heads}; leave one out"
            )
        name = "heads" if self.head_channels is None else "head_channels"
        widths = [self.channels * m for m in self.multipliers]
        check_heads("unet", widths, name, getattr(self, name))

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

        def stage(step: Step, part: Part) -> Stage:
            width = step.out_channels
            if step.resample is not None and config.resampling == "convolution":
                is_up, pad_end = step.resample == "up", config.downsampling_pad == "end"
                return Stage(Upsample(width) if is_up else Downsample(width, pad_end))
            joins = bool(num_classes) and part in config.class_maps
            block = ResidualBlock(
                step.channels + step.skip + joins,
                width,
                embedding,
                config.dropout,
                scale_shift=config.conditioning == "scale_shift",
                resample=step.resample,
                groups=config.groups,
            )
            class_map = ClassMap(embedding, step.size) if joins else None
            heads = width // config.head_channels if config.head_channels else config.heads
            attention = SelfAttention(width, heads, groups=config.groups) if step.attends else None
            return Stage(block, attention, class_map, takes_skip=bool(step.skip))

        widths = [config.channels * m for m in config.multipliers]
        size = (image_shape[1] // self.patch, image_shape[2] // self.patch)
        down, middle, up = unet_steps(width, widths, config.blocks, size, config.attention)
        self.stem = nn.Conv2d(image_shape[0] * self.patch**2, width, 3, padding=1)
        self.down = Blocks(stage(step, "down") for step in down)
        self.middle = Blocks(stage(step, "middle") for step in middle)
        self.up = Blocks(stage(step, "up") for step in up)
        self.norm = group_norm(widths[0], config.groups)
        self.head = ZeroConv2d(widths[0], out_channels * self.patch**2, 3, padding=1)
        if config.initialization == "glorot":
            glorot(self)

    def forward(
        self,
        x: Maps,
        noise_label: Float[Tensor, " B"],
        labels: Labels | None = None,
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
        h = through_stages(self.down, self.middle, self.up, h, embedding, class_vector)
        h = self.head(norm_silu(self.norm, h))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h


class ClassMap(nn.Module):
    """A class as one channel of a feature map: a linear layer from its vector, reshaped."""

    def __init__(self, embedding: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Linear(embedding, size[0] * size[1])

    def forward(self, class_vector: Embedding) -> Float[Tensor, "B 1 H W"]:
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
        x: Maps,
        embedding: Embedding,
        class_vector: Embedding | None,
        skip: Float[Tensor, "B S H W"] | None,
    ) -> Float[Tensor, "B D H2 W2"]:
        joined = [x] if skip is None else [x, skip]
        if self.class_map is not None:
            joined.append(self.class_map(class_vector).to(x))
        x = self.block(torch.cat(joined, dim=1) if len(joined) > 1 else x, embedding)
        return x if self.attention is None else self.attention(x)


def through_stages(
    down: Blocks,
    middle: Blocks,
    up: Blocks,
    h: Maps,
    embedding: Embedding,
    class_vector: Embedding | None = None,
) -> Float[Tensor, "B D H W"]:
    """Feature maps through the stages of a U-Net; maps of the way down are joined on the way up."""
    skips = [h]
    for stage in down:
        h = down.run(stage, h, embedding, class_vector, None)
        skips.append(h)
    for stage in middle:
        h = middle.run(stage, h, embedding, class_vector, None)
    for stage in up:
        skip = skips.pop() if stage.takes_skip else None
        h = up.run(stage, h, embedding, class_vector, skip)
    return h
