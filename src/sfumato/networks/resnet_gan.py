"""Residual generator and discriminator of WGAN-GP (Gulrajani et al. 2017) and SNGAN."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.config import PositiveInt, component
from sfumato.core.generative_model import Blocks
from sfumato.core.images import Labels, Shape
from sfumato.core.noise import RandomStream
from sfumato.networks.adversarial import (
    NEEDS_LABELS,
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
class ResNetGANConfig(NormalizedPair):
    """The residual pair of WGAN-GP for CIFAR-10; with spectral normalization that of SNGAN.

    The generator doubles from 4..7 pixels; the discriminator halves once less, and has two more
    blocks there. Sources: Gulrajani et al. 2017, appendix F; Miyato et al. 2018, table 4.

    Args:
        latent_dim: size of z.
        channels: of all layers of the generator (SNGAN: 256).
        discriminator_channels: of all layers of the discriminator.
        normalization: in the discriminator: none for WGAN-GP, spectral for SNGAN; the generator
            has batch normalization.
        conditioning: projection: class-conditional batch normalization in the generator, a
            projection in the discriminator. tiled: the embedded class beside z, and in extra
            channels of the discriminator's input.
        label_channels: size of the class embedding in extra channels.
    """

    kind: Literal["resnet_gan"] = "resnet_gan"
    latent_dim: PositiveInt = 128
    channels: PositiveInt = 128
    discriminator_channels: PositiveInt = 128
    normalization: Normalization = "none"
    conditioning: Conditioning = "projection"
    label_channels: PositiveInt = 16

    def build(
        self, image_shape: Shape, num_classes: int
    ) -> tuple["ResNetGenerator", "ResNetDiscriminator"]:
        """The generator and the discriminator for images of `image_shape`.

        Raises:
            ConfigError: the image cannot be halved.
        """
        return (
            ResNetGenerator(self, image_shape, num_classes),
            ResNetDiscriminator(self, image_shape, num_classes),
        )


def _initialize(module: nn.Module) -> None:
    """He's initialization, as Gulrajani et al. use it; biases 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ConditionalBatchNorm(nn.Module):
    """Batch normalization with scale and shift of each class (de Vries et al. 2017)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=num_classes == 0)
        self.scale = nn.Embedding(num_classes, channels) if num_classes else None
        self.shift = nn.Embedding(num_classes, channels) if num_classes else None
        if self.scale is not None and self.shift is not None:
            nn.init.ones_(self.scale.weight)
            nn.init.zeros_(self.shift.weight)

    def forward(self, x: Maps, labels: Labels | None) -> Maps:
        x = self.norm(x)
        if self.scale is None or self.shift is None:
            return x
        assert labels is not None, NEEDS_LABELS
        scale, shift = self.scale(labels), self.shift(labels)
        return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])


class UpBlock(nn.Module):
    """Normalization, ReLU and convolution twice, at twice the resolution; a 1x1 shortcut."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm_1 = ConditionalBatchNorm(channels, num_classes)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_2 = ConditionalBatchNorm(channels, num_classes)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Maps, labels: Labels | None) -> Float[Tensor, "B C M N"]:
        h = F.interpolate(F.relu(self.norm_1(x, labels)), scale_factor=2.0, mode="nearest")
        h = self.conv_2(F.relu(self.norm_2(self.conv_1(h), labels)))
        # A 1x1 convolution before the enlargement is the same as after it, and cheaper.
        return h + F.interpolate(self.skip(x), scale_factor=2.0, mode="nearest")  # type: ignore[no-any-return]


class ResNetGenerator(nn.Module):
    """z (and a class) to an image in (-1, 1)."""

    def __init__(self, config: ResNetGANConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        halvings = count_halvings("resnet_gan", image_shape)
        self.latent_dim, width = config.latent_dim, config.channels
        self.start = tuple(size // 2**halvings for size in image_shape[1:])
        tiled = num_classes > 0 and config.conditioning == "tiled"
        self.label = TiledLabels(num_classes, config.label_channels) if tiled else None
        inputs = config.latent_dim + (config.label_channels if tiled else 0)
        classes = 0 if tiled else num_classes
        self.project = nn.Linear(inputs, width * self.start[0] * self.start[1])
        self.blocks = Blocks(UpBlock(width, classes) for _ in range(halvings))
        self.norm = ConditionalBatchNorm(width, 0)
        self.to_image = nn.Conv2d(width, image_shape[0], 3, padding=1)
        self.apply(_initialize)

    def forward(
        self, z: Latents, labels: Labels | None = None, noise: RandomStream | None = None
    ) -> Maps:
        if self.label is not None:
            z = self.label(z[:, :, None, None], labels).flatten(1)
        x = self.project(z).view(len(z), -1, *self.start)
        for block in self.blocks:
            x = self.blocks.run(block, x, labels)
        return torch.tanh(self.to_image(F.relu(self.norm(x, None))))


class DownBlock(nn.Module):
    """Two convolutions with a shortcut; `down` averages 2x2 pixels at the end.

    The `first` block meets the image itself: no normalization and ReLU before it.
    """

    def __init__(
        self, channels: int, width: int, normalization: Normalization, *, down: bool, first: bool
    ) -> None:
        super().__init__()
        before = [] if first else [normalization_layer(normalization, channels), nn.ReLU()]
        self.layers = nn.Sequential(
            *before,
            nn.Conv2d(channels, width, 3, padding=1),
            normalization_layer(normalization, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.skip = nn.Conv2d(channels, width, 1) if down else nn.Identity()
        self.down = down

    def forward(self, x: Maps) -> Float[Tensor, "B D M N"]:
        if not self.down:
            return self.layers(x) + x  # type: ignore[no-any-return]
        return F.avg_pool2d(self.layers(x), 2) + self.skip(F.avg_pool2d(x, 2))  # type: ignore[no-any-return]


class ResNetDiscriminator(nn.Module):
    """An image (and a class) to a logit: high for real.

    Features are averaged over the positions (Gulrajani et al.), and summed with spectral
    normalization (Miyato et al.), under which an average would keep the logits small.
    """

    def __init__(self, config: ResNetGANConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        downs = max(1, count_halvings("resnet_gan", image_shape) - 1)
        width, kind = config.discriminator_channels, config.normalization
        tiled = num_classes > 0 and config.conditioning == "tiled"
        self.label = TiledLabels(num_classes, config.label_channels) if tiled else None
        channels = image_shape[0] + (config.label_channels if tiled else 0)
        blocks = [DownBlock(channels, width, kind, down=True, first=True)]
        blocks += [
            DownBlock(width, width, kind, down=i < downs, first=False) for i in range(1, downs + 2)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.judge = nn.Linear(width, 1)
        self.apply(_initialize)
        projected = num_classes > 0 and config.conditioning == "projection"
        self.project = LabelProjection(num_classes, width) if projected else None
        self.summed = kind == "spectral"
        if kind == "spectral":
            normalize_weights(self)

    def forward(self, x: Maps, labels: Labels | None = None) -> Float[Tensor, " B"]:
        if self.label is not None:
            x = self.label(x, labels)
        h = F.relu(self.blocks(x))
        features = h.sum(dim=(2, 3)) if self.summed else h.mean(dim=(2, 3))
        logits: Tensor = self.judge(features).flatten()
        if self.project is not None:
            logits = logits + self.project(features, labels)
        return logits
