"""What the pairs of networks of GANs share: conditioning and normalization."""

from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from sfumato.core.images import Labels
from sfumato.core.noise import RandomStream
from sfumato.networks.shapes import Latents, Maps


class StyledGenerator(Protocol):
    """A generator that maps z to w, and w to an image."""

    latent_dim: int

    def with_styles(
        self, z: Latents, labels: Labels | None, noise: RandomStream | None
    ) -> tuple[Maps, Float[Tensor, "B L S"]]:
        """Images, and the w of each of their layers."""
        ...


NEEDS_LABELS = "a conditional network needs labels"
Normalization = Literal["batch", "layer", "spectral", "none"]
Conditioning = Literal["tiled", "projection"]


class NormalizedPair:
    """The facts of a pair whose discriminator has a choice of normalization."""

    normalization: Normalization
    has_styles: ClassVar[bool] = False

    @property
    def mixes_images(self) -> bool:
        """Whether a logit depends on the other images of a batch."""
        return self.normalization == "batch"

    @property
    def bounded_slope(self) -> bool:
        """Whether the discriminator's layers are Lipschitz by construction."""
        return self.normalization == "spectral"


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

    def forward(self, x: Maps, labels: Labels | None) -> Float[Tensor, "B D H W"]:
        assert labels is not None, NEEDS_LABELS
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

    def forward(self, features: Float[Tensor, "B C"], labels: Labels | None) -> Float[Tensor, " B"]:
        assert labels is not None, NEEDS_LABELS
        product: Tensor = (self.embed(labels) * features).sum(1)
        return product
