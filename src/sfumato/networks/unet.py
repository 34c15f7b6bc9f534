"""The U-Net of the DDPM line (Ho et al. 2020; Dhariwal & Nichol 2021)."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.config import component
from sfumato.core.errors import ConfigError
from sfumato.core.images import Shape
from sfumato.networks.layers import (
    Downsample,
    ResidualBlock,
    SelfAttention,
    SinusoidalEmbedding,
    Upsample,
    group_norm,
    zero_initialized,
)


@component
class UNetConfig:
    """A U-Net of residual blocks.

    Args:
        channels: width of the first level.
        multipliers: width of each level in units of `channels`; each level after the first halves
            the resolution.
        blocks: residual blocks a level (one more on the way up).
        attention: heights of the feature maps that get self-attention.
        heads: attention heads.
        dropout: probability, inside the residual blocks.
        conditioning: how the time and class embedding enters a block: "add", or "scale_shift"
            (adaptive group normalization).
        patch: pixel-unshuffle factor of the stem; 2 makes the network see a quarter of the
            positions with four times the channels, about four times as fast.
    """

    kind: Literal["unet"] = "unet"
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    heads: int = 1
    dropout: float = 0.0
    conditioning: Literal["add", "scale_shift"] = "add"
    patch: int = 1

    def __post_init__(self) -> None:
        for name in ("channels", "blocks", "heads", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"unet needs {name} >= 1, got {name}={getattr(self, name)}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"unet needs multipliers >= 1, got {list(self.multipliers)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"unet needs 0 <= dropout < 1, got dropout={self.dropout}")
        widths = [self.channels * m for m in self.multipliers]
        if any(width % self.heads for width in widths):
            raise ValueError(f"unet widths {widths} must be divisible by heads={self.heads}")

    def build(
        self, image_shape: Shape, num_classes: int, out_channels: int | None = None
    ) -> "UNet":
        """The network for images of `image_shape`.

        Raises:
            ConfigError: the levels do not divide the image, or no level has an attention height.
        """
        halvings = len(self.multipliers) - 1
        for name, size in zip(("height", "width"), image_shape[1:], strict=True):
            divisor = self.patch * 2**halvings
            if size % divisor:
                padded = -(-size // divisor) * divisor
                raise ConfigError(
                    f"unet: {name} {size} is not divisible by {divisor} (patch {self.patch} x "
                    f"2^{halvings} for {halvings + 1} multipliers); use fewer multipliers or "
                    f"data.fit=pad data.resolution={padded}"
                )
        heights = [image_shape[1] // self.patch // 2**level for level in range(halvings + 1)]
        if unknown := [height for height in self.attention if height not in heights]:
            raise ConfigError(
                f"unet: attention at height {unknown[0]}, but the levels have heights {heights}; "
                "choose among these, or [] for none"
            )
        return UNet(self, image_shape, num_classes, out_channels or image_shape[0])


class UNet(nn.Module):
    """Maps a noisy image, its noise label and its class to an output image."""

    def __init__(
        self, config: UNetConfig, image_shape: Shape, num_classes: int, out_channels: int
    ) -> None:
        super().__init__()
        self.patch = config.patch
        self.num_classes = num_classes
        width = config.channels
        embedding = 4 * width
        self.embed_time = nn.Sequential(
            SinusoidalEmbedding(width),
            nn.Linear(width, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
        )
        self.embed_class = nn.Embedding(num_classes + 1, embedding) if num_classes else None

        def block(channels: int, out: int) -> ResidualBlock:
            scale_shift = config.conditioning == "scale_shift"
            return ResidualBlock(channels, out, embedding, config.dropout, scale_shift)

        def attend(channels: int, height: int) -> nn.Module:
            wanted = height in config.attention
            return SelfAttention(channels, config.heads) if wanted else nn.Identity()

        height = image_shape[1] // self.patch
        self.stem = nn.Conv2d(image_shape[0] * self.patch**2, width, 3, padding=1)
        skips = [width]  # channels of the maps handed across
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(config.multipliers):
            if level > 0:
                self.down.append(Stage(Downsample(width), nn.Identity()))
                height //= 2
                skips.append(width)
            for _ in range(config.blocks):
                out = config.channels * multiplier
                self.down.append(Stage(block(width, out), attend(out, height)))
                width = out
                skips.append(width)

        self.middle = nn.ModuleList(
            [
                Stage(block(width, width), SelfAttention(width, config.heads)),
                Stage(block(width, width), nn.Identity()),
            ]
        )

        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            out = config.channels * multiplier
            for _ in range(config.blocks + 1):
                self.up.append(Stage(block(width + skips.pop(), out), attend(out, height)))
                width = out
            if level > 0:
                self.up.append(Stage(Upsample(width), nn.Identity()))
                height *= 2
        self.norm = group_norm(width)
        self.head = zero_initialized(nn.Conv2d(width, out_channels * self.patch**2, 3, padding=1))

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        noise_label: Float[Tensor, " B"],
        labels: Int64[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B D H W"]:
        embedding = self.embed_time(noise_label)
        if self.embed_class is not None:
            if labels is None:  # the null class
                labels = torch.full((len(x),), self.num_classes, device=x.device)
            embedding = embedding + self.embed_class(labels)
        embedding = F.silu(embedding)

        h = self.stem(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for stage in self.down:
            h = stage(h, embedding)
            skips.append(h)
        for stage in self.middle:
            h = stage(h, embedding)
        for stage in self.up:
            is_block = isinstance(stage.block, ResidualBlock)
            h = stage(torch.cat([h, skips.pop()], dim=1) if is_block else h, embedding)
        return F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.patch)


class Stage(nn.Module):
    """A residual block (or a change of resolution) and the attention after it."""

    def __init__(self, block: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(
        self, x: Float[Tensor, "B C H W"], embedding: Float[Tensor, "B E"]
    ) -> Float[Tensor, "B D H2 W2"]:
        if isinstance(self.block, ResidualBlock):
            return self.attention(self.block(x, embedding))  # type: ignore[no-any-return]
        return self.block(x)  # type: ignore[no-any-return]
