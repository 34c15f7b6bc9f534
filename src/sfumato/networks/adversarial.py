"""What the pairs of networks of GANs share: conditioning and normalization."""

from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from sfumato.core.errors import ConfigError
from sfumato.core.images import Shape
from sfumato.core.noise import RandomStream


class StyledGenerator(Protocol):
    """A generator that maps z to w, and w to an image."""

    latent_dim: int

    def with_styles(
        self,
        z: Float[Tensor, "B Z"],
        labels: Int64[Tensor, " B"] | None,
        noise: RandomStream | None,
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B L S"]]:
        """Images, and the w of each of their layers."""
        ...


Normalization = Literal["batch", "layer", "spectral", "none"]
Conditioning = Literal["tiled", "projection"]


def count_halvings(kind: str, image_shape: Shape) -> int:
    """How often the image is halved: down to 4..7 pixels, as Radford et al. do, or 2 if small.

    Raises:
        ConfigError: the image cannot be halved.
    """
    smallest = min(image_shape[1:])
    least = 4 if smallest >= 16 else 2
    count = 0
    while all(size % 2 ** (count + 1) == 0 for size in image_shape[1:]):
        if smallest // 2 ** (count + 1) < least:
            break
        count += 1
    if count == 0:
        raise ConfigError(
            f"{kind}: images of {image_shape[1]}x{image_shape[2]} cannot be halved; "
            "use an even size, for example with data.resolution"
        )
    return count


def normalization_layer(kind: Normalization, channels: int) -> nn.Module:
    """The layer after a convolution; spectral normalization is in the weights instead."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "layer":  # over channels and positions of each image
        return nn.GroupNorm(1, channels)
    return nn.Identity()


def normalize_weights(module: nn.Module) -> None:
    """Divide the weights of all layers by their largest singular value, by power iteration.

    Source: Miyato et al. 2018 (SNGAN), algorithm 1. The vectors of the iteration are buffers.
    """
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    for layer in layers:
        spectral_norm(layer)


class TiledLabels(nn.Module):
    """Adds a class embedding to an image or a latent as extra, constant channels."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, channels)

    def forward(
        self, x: Float[Tensor, "B C H W"], labels: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B D H W"]:
        tiled = self.embed(labels)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.cat([x, tiled.to(x.dtype)], dim=1)


class LabelProjection(nn.Module):
    """The inner product of a class embedding with features: how well they fit the class.

    Source: Miyato & Koyama 2018 (cGANs with Projection Discriminator), eq. 4.
    """

    def __init__(self, num_classes: int, features: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, features)
        nn.init.normal_(self.embed.weight, 0.0, 0.02)

    def forward(
        self, features: Float[Tensor, "B C"], labels: Int64[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        product: Tensor = (self.embed(labels) * features).sum(1)
        return product
