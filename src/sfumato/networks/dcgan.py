"""DCGAN's generator and discriminator (Radford et al. 2016) for any size that halves evenly."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sfumato.core.config import component
from sfumato.core.errors import ConfigError
from sfumato.core.images import Shape


@component
class DCGANConfig:
    """A pair of convolutional networks without pooling or dense layers.

    Args:
        latent_dim: size of z.
        channels: width of the layer next to the image; it doubles with each halving of the map.
        label_channels: size of the class embedding, tiled into that many extra channels of the
            input of both networks (conditional models only).
    """

    kind: Literal["dcgan"] = "dcgan"
    latent_dim: int = 100
    channels: int = 64
    label_channels: int = 16

    def __post_init__(self) -> None:
        for name in ("latent_dim", "channels", "label_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"dcgan needs {name} >= 1, got {name}={getattr(self, name)}")

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


def _halvings(image_shape: Shape) -> int:
    """How often the image is halved: down to 4..7 pixels, as Radford et al. do, or 2 if small."""
    smallest = min(image_shape[1:])
    least = 4 if smallest >= 16 else 2
    count = 0
    while all(size % 2 ** (count + 1) == 0 for size in image_shape[1:]):
        if smallest // 2 ** (count + 1) < least:
            break
        count += 1
    if count == 0:
        raise ConfigError(
            f"dcgan: images of {image_shape[1]}x{image_shape[2]} cannot be halved; "
            "use an even size, for example with data.resolution"
        )
    return count


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
        halvings = _halvings(image_shape)
        self.latent_dim = config.latent_dim
        self.embed_class = nn.Embedding(num_classes, config.label_channels) if num_classes else None
        start = tuple(size // 2**halvings for size in image_shape[1:])
        width = config.channels * 2 ** (halvings - 1)
        inputs = config.latent_dim + (config.label_channels if num_classes else 0)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(inputs, width, start, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        for _ in range(halvings - 1):
            layers += [
                nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width // 2),
                nn.ReLU(inplace=True),
            ]
            width //= 2
        layers += [nn.ConvTranspose2d(width, image_shape[0], 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers).apply(_initialize)

    def forward(
        self, z: Float[Tensor, "B Z"], labels: Int64[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B C H W"]:
        if self.embed_class is not None:
            assert labels is not None, "a conditional generator needs labels"
            z = torch.cat([z, self.embed_class(labels)], dim=1)
        return self.layers(z[:, :, None, None])  # type: ignore[no-any-return]


class DCGANDiscriminator(nn.Module):
    """An image (and a class) to a logit: high for real."""

    def __init__(self, config: DCGANConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        halvings = _halvings(image_shape)
        self.embed_class = nn.Embedding(num_classes, config.label_channels) if num_classes else None
        width = config.channels
        inputs = image_shape[0] + (config.label_channels if num_classes else 0)
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for _ in range(halvings - 1):
            layers += [
                nn.Conv2d(width, width * 2, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width * 2),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            width *= 2
        end = tuple(size // 2**halvings for size in image_shape[1:])
        layers.append(nn.Conv2d(width, 1, end))
        self.layers = nn.Sequential(*layers).apply(_initialize)

    def forward(
        self, x: Float[Tensor, "B C H W"], labels: Int64[Tensor, " B"] | None = None
    ) -> Float[Tensor, " B"]:
        if self.embed_class is not None:
            assert labels is not None, "a conditional discriminator needs labels"
            tiled = self.embed_class(labels)[:, :, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, tiled.to(x.dtype)], dim=1)
        return self.layers(x).flatten()  # type: ignore[no-any-return]
