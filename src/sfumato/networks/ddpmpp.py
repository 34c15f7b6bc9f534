"""DDPM++, the U-Net of score SDEs (Song et al. 2021) as EDM trains it (Karras et al. 2022)."""

import math
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.blocks import Blocks
from sfumato.core.config import component
from sfumato.core.images import Shape
from sfumato.networks.layers import (
    ClassEmbedding,
    Resample,
    ResidualBlock,
    SelfAttention,
    TimeEmbedding,
    ZeroConv2d,
    glorot,
    group_norm,
    norm_silu,
)
from sfumato.networks.shapes import check_attention, check_halvings
from sfumato.networks.unet import Stage


@component
class DDPMPPConfig:
    """DDPM++; as it stands that of EDM on CIFAR-10 (55.7 M parameters).

    Other than in the U-Net of DDPM, all branches are summed at unit variance, resampling happens
    in residual blocks, the last block alone of a level attends on the way up, and the class joins
    the features of the time.

    Args:
        channels: width in whose units the multipliers are.
        multipliers: width of each level; each after the first halves the resolution.
        blocks: residual blocks a level (one more on the way up).
        attention: heights of the feature maps that get self-attention; the middle always does.
        heads: attention heads.
        dropout: probability, inside the residual blocks.
    """

    kind: Literal["ddpmpp"] = "ddpmpp"
    channels: int = 128
    multipliers: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    heads: int = 1
    dropout: float = 0.13

    def __post_init__(self) -> None:
        for name in ("channels", "blocks", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"ddpmpp needs {name} >= 1, got {name}={getattr(self, name)}")
        if self.channels % 2 or self.channels < 4:
            raise ValueError(
                f"ddpmpp needs an even number of channels, at least 4, got channels={self.channels}"
            )
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"ddpmpp needs multipliers >= 1, got {list(self.multipliers)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"ddpmpp needs 0 <= dropout < 1, got dropout={self.dropout}")
        widths = [self.channels * m for m in self.multipliers]
        if any(width % self.heads for width in widths):
            raise ValueError(f"ddpmpp widths {widths} must be divisible by heads={self.heads}")

    def build(
        self, image_shape: Shape, num_classes: int, out_channels: int | None = None
    ) -> "DDPMPP":
        """The network for images of `image_shape`.

        Raises:
            ConfigError: the levels do not divide the image, or no level has an attention height.
        """
        check_halvings("ddpmpp", image_shape, len(self.multipliers) - 1, "multipliers")
        check_attention("ddpmpp", image_shape[1], len(self.multipliers), self.attention)
        return DDPMPP(self, image_shape, num_classes, out_channels or image_shape[0])


class DDPMPP(nn.Module):
    """Maps a noisy image, its noise label and its class to an output image."""

    def __init__(
        self, config: DDPMPPConfig, image_shape: Shape, num_classes: int, out_channels: int
    ) -> None:
        super().__init__()
        features, embedding = config.channels, 4 * config.channels
        self.embed_time = TimeEmbedding(features, embedding)
        self.embed_class = ClassEmbedding(num_classes, features) if num_classes else None

        def stage(
            channels: int,
            out: int,
            *,
            skip: int = 0,
            attend: bool = False,
            resample: Resample | None = None,
        ) -> Stage:
            block = ResidualBlock(
                channels + skip,
                out,
                embedding,
                config.dropout,
                scale_shift=False,
                resample=resample,
                project_skip=resample is not None,
                skip_scale=math.sqrt(0.5),
            )
            attention = SelfAttention(out, config.heads, math.sqrt(0.5)) if attend else None
            return Stage(block, attention, takes_skip=bool(skip))

        widths = [config.channels * m for m in config.multipliers]
        heights = [image_shape[1] // 2**level for level in range(len(widths))]
        width = config.channels
        self.stem = nn.Conv2d(image_shape[0], width, 3, padding=1)
        skips = [width]
        self.down = Blocks()
        for level, out in enumerate(widths):
            if level > 0:
                self.down.append(stage(width, width, resample="down"))
                skips.append(width)
            for _ in range(config.blocks):
                attend = heights[level] in config.attention
                self.down.append(stage(width, out, attend=attend))
                width = out
                skips.append(width)
        self.middle = Blocks([stage(width, width, attend=True), stage(width, width)])
        self.up = Blocks()
        for level, out in reversed(list(enumerate(widths))):
            for block in range(config.blocks + 1):
                attend = block == config.blocks and heights[level] in config.attention
                self.up.append(stage(width, out, skip=skips.pop(), attend=attend))
                width = out
            if level > 0:
                self.up.append(stage(width, width, resample="up"))
        self.norm = group_norm(width)
        self.head = ZeroConv2d(width, out_channels, 3, padding=1)
        glorot(self, attention_variance=0.1)

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        noise_label: Float[Tensor, " B"],
        labels: Int64[Tensor, " B"] | None = None,
        augment_labels: Float[Tensor, "B A"] | None = None,
    ) -> Float[Tensor, "B D H W"]:
        added: Tensor | float = 0.0
        if self.embed_class is not None:
            added = self.embed_class(labels, len(x))
        embedding = F.silu(self.embed_time(noise_label, added, augment_labels))
        h = self.stem(x)
        skips: list[Tensor] = [h]
        for stage in self.down:
            h = self.down.run(stage, h, embedding, None, None)
            skips.append(h)
        for stage in self.middle:
            h = self.middle.run(stage, h, embedding, None, None)
        for stage in self.up:
            skip = skips.pop() if stage.takes_skip else None
            h = self.up.run(stage, h, embedding, None, skip)
        return self.head(norm_silu(self.norm, h))  # type: ignore[no-any-return]
