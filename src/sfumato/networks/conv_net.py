"""A plain net of convolutions and transposed convolutions, without connections across."""

from itertools import pairwise
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.blocks import Blocks
from sfumato.core.config import component
from sfumato.core.images import Shape
from sfumato.networks.layers import ClassEmbedding, TimeEmbedding, group_norm
from sfumato.networks.shapes import check_halvings


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
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"conv_net needs channels >= 1, got channels={self.channels}")
        if len(self.multipliers) < 2 or min(self.multipliers) < 1:
            raise ValueError(
                f"conv_net needs 2 multipliers or more, all >= 1, got {list(self.multipliers)}"
            )

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
        self,
        x: Float[Tensor, "B C H W"],
        noise_label: Float[Tensor, " B"],
        labels: Int64[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B D H W"]:
        embedding = self.embed_time(noise_label)
        if self.embed_class is not None:
            embedding = embedding + self.embed_class(labels, len(x))
        embedding = F.silu(embedding)
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

    def forward(
        self, x: Float[Tensor, "B C H W"], embedding: Float[Tensor, "B E"]
    ) -> Float[Tensor, "B D H2 W2"]:
        return F.silu(self.norm(self.conv(x)) + self.project(embedding)[:, :, None, None])
