"""Two plain networks, as baselines: a minimal U-Net, and a net without connections across."""

from itertools import pairwise
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
    TimeEmbedding,
    conditioning,
    group_norm,
    norm_silu,
    resampled,
)
from sfumato.networks.shapes import Embedding, Maps, Multipliers, TwoMultipliers, check_halvings


@component
class ConvNetConfig:
    """Strided 4x4 convolutions down, transposed 4x4 convolutions up: what an autoencoder is.

    All that the output knows of the image has gone through the smallest maps: a baseline that
    shows what the connections across of a U-Net are worth.

    Args:
        channels: width at full resolution.
        multipliers: width of each level in units of `channels`; each after the first is half as
            high and wide.
    """

    kind: Literal["conv_net"] = "conv_net"
    channels: PositiveInt = 64
    multipliers: TwoMultipliers = (1, 2, 4)

    def build(
        self, image_shape: Shape, num_classes: int, out_channels: int | None = None
    ) -> "ConvNet":
        """The network for images of `image_shape`.

        Raises:
            ConfigError: the levels do not divide the image.
        """
        check_halvings("conv_net", image_shape, len(self.multipliers) - 1, "multipliers")
        return ConvNet(self, image_shape[0], num_classes, out_channels or image_shape[0])


class ConvNet(nn.Module):
    """Maps a noisy image, its noise label and its class to an output image."""

    def __init__(
        self, config: ConvNetConfig, channels: int, num_classes: int, out_channels: int
    ) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        embedding = 4 * config.channels
        self.embed_time = TimeEmbedding(32, embedding)
        self.embed_class = ClassEmbedding(num_classes, embedding) if num_classes else None
        self.layers = Blocks(
            [
                Layer(nn.Conv2d(channels, widths[0], 3, padding=1), widths[0], embedding),
                *(
                    Layer(nn.Conv2d(a, b, 4, stride=2, padding=1), b, embedding)
                    for a, b in pairwise(widths)
                ),
                Layer(nn.Conv2d(widths[-1], widths[-1], 3, padding=1), widths[-1], embedding),
                *(
                    Layer(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), b, embedding)
                    for a, b in pairwise(reversed(widths))
                ),
            ]
        )
        self.head = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(
        self, x: Maps, noise_label: Float[Tensor, " B"], labels: Labels | None = None
    ) -> Float[Tensor, "B D H W"]:
        embedding = conditioning(self.embed_time, self.embed_class, noise_label, labels)
        h = x
        for layer in self.layers:
            h = self.layers.run(layer, h, embedding)
        return self.head(h)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A convolution of any kind, GroupNorm, the embedding added, SiLU."""

    def __init__(self, conv: nn.Module, channels: int, embedding: int) -> None:
        super().__init__()
        self.conv = conv
        self.norm = group_norm(channels)
        self.project = nn.Linear(embedding, channels)

    def forward(self, x: Maps, embedding: Embedding) -> Float[Tensor, "B D H2 W2"]:
        return F.silu(self.norm(self.conv(x)) + self.project(embedding)[:, :, None, None])


@component
class MinimalUNetConfig:
    """Two convolutions per level, max-pooling and repeated pixels, and nothing else.

    The time, and the class, are channels beside those of the image, constant over its pixels.

    Args:
        channels: width at full resolution.
        multipliers: width of each level in units of `channels`; each after the first is half as
            high and wide.
        input_features: channels for the time, and as many for the class.
    """

    kind: Literal["minimal_unet"] = "minimal_unet"
    channels: PositiveInt = 32
    multipliers: Multipliers = (1, 2, 4)
    input_features: PositiveInt = 8

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
        self, x: Maps, noise_label: Float[Tensor, " B"], labels: Labels | None = None
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

    def forward(self, x: Maps) -> Float[Tensor, "B D H W"]:
        h = norm_silu(self.norm_1, self.conv_1(x))
        return norm_silu(self.norm_2, self.conv_2(h))
