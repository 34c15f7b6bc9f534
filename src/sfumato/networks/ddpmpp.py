"""DDPM++, the U-Net of score SDEs (Song et al. 2021) as EDM trains it (Karras et al. 2022)."""

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.config import PositiveInt, component
from sfumato.core.generative_model import Blocks
from sfumato.core.images import Labels, Shape
from sfumato.networks.layers import (
    ClassEmbedding,
    ResidualBlock,
    SelfAttention,
    TimeEmbedding,
    ZeroConv2d,
    glorot,
    group_norm,
    norm_silu,
)
from sfumato.networks.shapes import (
    Dropout,
    EvenWidth,
    Maps,
    Multipliers,
    Step,
    check_attention,
    check_halvings,
    check_heads,
    unet_steps,
)
from sfumato.networks.unet import Stage, through_stages


@component
class DDPMPPConfig:
    """DDPM++; as it stands that of EDM on CIFAR-10 (55.7 M parameters).

    Other than in the U-Net of DDPM, all branches are summed at unit variance, resampling happens
    in residual blocks, the last block alone of a level attends on the way up, and the class joins
    the features of the time.

    Args:
        channels: width in whose units the multipliers are.
        multipliers: width of each level; each after the first halves the resolution.
        blocks: residual blocks per level (one more on the way up).
        attention: heights of the feature maps that get self-attention; the middle always does.
        heads: attention heads.
        dropout: probability, inside the residual blocks.
    """

    kind: Literal["ddpmpp"] = "ddpmpp"
    channels: EvenWidth = 128
    multipliers: Multipliers = (2, 2, 2)
    blocks: PositiveInt = 4
    attention: tuple[int, ...] = (16,)
    heads: PositiveInt = 1
    dropout: Dropout = 0.13

    def __post_init__(self) -> None:
        check_heads("ddpmpp", [self.channels * m for m in self.multipliers], "heads", self.heads)

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

        def stage(step: Step, attend: bool) -> Stage:
            block = ResidualBlock(
                step.channels + step.skip,
                step.out_channels,
                embedding,
                config.dropout,
                scale_shift=False,
                resample=step.resample,
                project_skip=step.resample is not None,
                skip_scale=math.sqrt(0.5),
            )
            heads, scale = config.heads, math.sqrt(0.5)
            attention = SelfAttention(step.out_channels, heads, scale) if attend else None
            return Stage(block, attention, takes_skip=bool(step.skip))

        widths = [config.channels * m for m in config.multipliers]
        down, middle, up = unet_steps(
            config.channels, widths, config.blocks, image_shape[1:], config.attention
        )
        self.stem = nn.Conv2d(image_shape[0], config.channels, 3, padding=1)
        self.down = Blocks(stage(step, step.attends) for step in down)
        self.middle = Blocks(stage(step, step.attends) for step in middle)
        self.up = Blocks(stage(step, step.attends and step.is_last) for step in up)
        self.norm = group_norm(widths[0])
        self.head = ZeroConv2d(widths[0], out_channels, 3, padding=1)
        glorot(self, attention_variance=0.1)

    def forward(
        self,
        x: Maps,
        noise_label: Float[Tensor, " B"],
        labels: Labels | None = None,
        augment_labels: Float[Tensor, "B A"] | None = None,
    ) -> Float[Tensor, "B D H W"]:
        added: Tensor | float = 0.0
        if self.embed_class is not None:
            added = self.embed_class(labels, len(x))
        embedding = F.silu(self.embed_time(noise_label, added, augment_labels))
        h = through_stages(self.down, self.middle, self.up, self.stem(x), embedding)
        return self.head(norm_silu(self.norm, h))  # type: ignore[no-any-return]
