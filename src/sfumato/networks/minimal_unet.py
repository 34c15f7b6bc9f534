"""A minimal U-Net that learns of the time and the class at its input only."""

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
    TimeEmbedding,
    group_norm,
    norm_silu,
    resampled,
)
from sfumato.networks.shapes import check_halvings


@component
class MinimalUNetConfig:
    """Two convolutions a level, max-pooling and repeated pixels, and nothing else.

    The time, and the class, are channels beside those of the image, constant over its pixels.

    Args:
        channels: width at full resolution.
        multipliers: width of each level in units of `channels`; each after the first is half as
            high and wide.
        input_features: channels for the time, and as many for the class.
    """

    kind: Literal["minimal_unet"] = "minimal_unet"
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    input_features: int = 8

    def __post_init__(self) -> None:
        for name in ("channels", "input_features"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"minimal_unet needs {name} >= 1, got {name}={getattr(self, name)}"
                )
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"minimal_unet needs multipliers >= 1, got {list(self.multipliers)}")

    def build(
        self, image_shape: Shape, num_classes: int, out_channels: int | None = None
    ) -> "MinimalUNet":
        """The network for images of `image_shape`.

        Raises:
            ConfigError: the levels do not divide the image.
        """
        check_halvings("minimal_unet", image_shape, len(self.multipliers) - 1, "multipliers")
        return MinimalUNet(self, image_shape[0], num_classes, out_channels or image_shape[0])


class MinimalUNet(nn.Module):
    """Maps a noisy image, its noise label and its class to an output image."""

    def __init__(
        self, config: MinimalUNetConfig, channels: int, num_classes: int, out_channels: int
    ) -> None:
        super().__init__()
        features = config.input_features
        widths = [config.channels * m for m in config.multipliers]
        self.embed_time = TimeEmbedding(32, features)
        self.embed_class = ClassEmbedding(num_classes, features) if num_classes else None
        inputs = channels + features * (2 if num_classes else 1)
        self.down = Blocks(
            Convolutions(a, b) for a, b in zip([inputs, *widths[:-1]], widths, strict=True)
        )
        self.up = Blocks(
            Convolutions(widths[level + 1] + widths[level], widths[level])
            for level in reversed(range(len(widths) - 1))
        )
        self.head = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        noise_label: Float[Tensor, " B"],
        labels: Int64[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B D H W"]:
        features = [self.embed_time(noise_label)]
        if self.embed_class is not None:
            features.append(self.embed_class(labels, len(x)))
        maps = [f.to(x)[:, :, None, None].expand(-1, -1, *x.shape[2:]) for f in features]
        h: Tensor = torch.cat([x, *maps], dim=1)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            h = self.down.run(block, F.max_pool2d(h, 2) if level else h)
            skips.append(h)
        skips.pop()
        for block in self.up:
            h = self.up.run(block, torch.cat([resampled(h, "up"), skips.pop()], dim=1))
        return self.head(h)  # type: ignore[no-any-return]


class Convolutions(nn.Module):
    """Two 3x3 convolutions, each with GroupNorm and SiLU."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm_1 = group_norm(out_channels)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm_2 = group_norm(out_channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        h = norm_silu(self.norm_1, self.conv_1(x))
        return norm_silu(self.norm_2, self.conv_2(h))
