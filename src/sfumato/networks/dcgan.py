"""DCGAN's generator and discriminator (Radford et al. 2016) for any size that halves evenly."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.config import PositiveInt, component
from sfumato.core.images import Labels, Shape
from sfumato.core.noise import RandomStream
from sfumato.networks.adversarial import (
    Conditioning,
    LabelProjection,
    Normalization,
    NormalizedPair,
    TiledLabels,
    normalization_layer,
    normalize_weights,
)
from sfumato.networks.shapes import Latents, Maps, count_halvings


@component
class DCGANConfig(NormalizedPair):
    """A pair of convolutional networks without pooling or dense layers.

    Args:
        latent_dim: size of z.
        channels: width of the layer next to the image; it doubles with each halving of the map.
        variant: classic doubles the width from layer to layer, counted from the image: 1, 2, 4, 8
            times `channels`. wide keeps at least 4 times from the second layer on: 1, 4, 4, 8.
        normalization: in the discriminator; the generator has batch normalization.
        conditioning: how the class enters the discriminator: tiled into extra channels of its
            input, or by projection. In the generator it stands beside z.
        label_channels: size of the class embedding in extra channels.
    """

    kind: Literal["dcgan"] = "dcgan"
    latent_dim: PositiveInt = 100
    channels: PositiveInt = 64
    variant: Literal["classic", "wide"] = "classic"
    normalization: Normalization = "batch"
    conditioning: Conditioning = "tiled"
    label_channels: PositiveInt = 16

    def widths(self, halvings: int) -> list[int]:
        """Channels after each halving, from the image inwards."""
        least = 4 if self.variant == "wide" else 1
        return [self.channels * (max(least, 2**i) if i else 1) for i in range(halvings)]

    def build(
        self, image_shape: Shape, num_classes: int
    ) -> tuple["DCGANGenerator", "DCGANDiscriminator"]:
        """The generator and the discriminator for images of `image_shape`.

        Raises:
            ConfigError: the image cannot be halved.
        """
        return (
            DCGANGenerator(self, image_shape, num_classes),
            DCGANDiscriminator(self, image_shape, num_classes),
        )


def _initialize(module: nn.Module) -> None:
    """N(0, 0.02) weights, batch normalization around 1 (Radford et al. 2016, section 4)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class DCGANGenerator(nn.Module):
    """z (and a class) to an image in (-1, 1)."""

    def __init__(self, config: DCGANConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        halvings = count_halvings("dcgan", image_shape)
        self.latent_dim = config.latent_dim
        self.label = TiledLabels(num_classes, config.label_channels) if num_classes else None
        start = tuple(size // 2**halvings for size in image_shape[1:])
        inputs = config.latent_dim + (config.label_channels if num_classes else 0)
        *inner, width = config.widths(halvings)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(inputs, width, start, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        for narrower in reversed(inner):
            layers += [
                nn.ConvTranspose2d(width, narrower, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(narrower),
                nn.ReLU(inplace=True),
            ]
            width = narrower
        layers += [nn.ConvTranspose2d(width, image_shape[0], 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers).apply(_initialize)

    def forward(
        self, z: Latents, labels: Labels | None = None, noise: RandomStream | None = None
    ) -> Maps:
        x = z[:, :, None, None]
        if self.label is not None:
            x = self.label(x, labels)
        return self.layers(x)  # type: ignore[no-any-return]


class DCGANDiscriminator(nn.Module):
    """An image (and a class) to a logit: high for real."""

    def __init__(self, config: DCGANConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        halvings = count_halvings("dcgan", image_shape)
        tiled = num_classes > 0 and config.conditioning == "tiled"
        self.label = TiledLabels(num_classes, config.label_channels) if tiled else None
        width, *deeper = config.widths(halvings)
        inputs = image_shape[0] + (config.label_channels if tiled else 0)
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for wider in deeper:
            layers += [
                # Batch and layer normalization bring a bias of their own.
                nn.Conv2d(width, wider, 4, 2, 1, bias=config.normalization in ("spectral", "none")),
                normalization_layer(config.normalization, wider),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            width = wider
        end = tuple(size // 2**halvings for size in image_shape[1:])
        self.layers = nn.Sequential(*layers).apply(_initialize)
        self.judge = nn.Conv2d(width, 1, end).apply(_initialize)
        projected = num_classes > 0 and config.conditioning == "projection"
        self.project = LabelProjection(num_classes, width) if projected else None
        if config.normalization == "spectral":
            normalize_weights(self)

    def forward(self, x: Maps, labels: Labels | None = None) -> Float[Tensor, " B"]:
        if self.label is not None:
            x = self.label(x, labels)
        features = self.layers(x)
        logits: Tensor = self.judge(features).flatten()
        if self.project is not None:
            logits = logits + self.project(features.sum(dim=(2, 3)), labels)
        return logits
