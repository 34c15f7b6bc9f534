"""Multilayer perceptrons for points in the plane and for images of a few pixels."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.config import PositiveInt, component
from sfumato.core.images import Labels, Shape
from sfumato.core.noise import RandomStream
from sfumato.networks.adversarial import NEEDS_LABELS
from sfumato.networks.shapes import Latents, Maps


@component
class MLPGANConfig:
    """A pair of perceptrons (Goodfellow et al. 2014).

    The class, where there is one, is a one-hot vector beside the input of both.

    Args:
        latent_dim: size of z.
        width: of the hidden layers.
        layers, discriminator_layers: hidden layers of the two.
        activation: between the layers. With tanh a discriminator is smooth, and what it will
            answer some steps ahead (unrolling) changes slowly with the images.
    """

    has_styles: ClassVar[bool] = False
    mixes_images: ClassVar[bool] = False
    bounded_slope: ClassVar[bool] = False
    kind: Literal["mlp_gan"] = "mlp_gan"
    latent_dim: PositiveInt = 64
    width: PositiveInt = 128
    layers: PositiveInt = 2
    discriminator_layers: PositiveInt = 2
    activation: Literal["relu", "tanh"] = "relu"

    def build(
        self, image_shape: Shape, num_classes: int
    ) -> tuple["MLPGenerator", "MLPDiscriminator"]:
        """The generator and the discriminator for images of `image_shape`."""
        return (
            MLPGenerator(self, image_shape, num_classes),
            MLPDiscriminator(self, image_shape, num_classes),
        )


def _perceptron(config: MLPGANConfig, inputs: int, layers: int, outputs: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    for i in range(layers):
        activation = nn.Tanh() if config.activation == "tanh" else nn.ReLU()
        modules += [nn.Linear(config.width if i else inputs, config.width), activation]
    return nn.Sequential(*modules, nn.Linear(config.width, outputs))


def _with_class(
    x: Float[Tensor, "B C"], labels: Labels | None, num_classes: int
) -> Float[Tensor, "B D"]:
    if num_classes == 0:
        return x
    assert labels is not None, NEEDS_LABELS
    return torch.cat([x, F.one_hot(labels, num_classes).to(x.dtype)], dim=1)


class MLPGenerator(nn.Module):
    """z (and a class) to an image, of any range."""

    def __init__(self, config: MLPGANConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.latent_dim, self.num_classes = config.latent_dim, num_classes
        self.image_shape = image_shape
        inputs = config.latent_dim + num_classes
        self.layers = _perceptron(config, inputs, config.layers, math.prod(image_shape))

    def forward(
        self, z: Latents, labels: Labels | None = None, noise: RandomStream | None = None
    ) -> Maps:
        x: Tensor = self.layers(_with_class(z, labels, self.num_classes))
        return x.view(-1, *self.image_shape)


class MLPDiscriminator(nn.Module):
    """An image (and a class) to a logit: high for real."""

    def __init__(self, config: MLPGANConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        inputs = math.prod(image_shape) + num_classes
        self.layers = _perceptron(config, inputs, config.discriminator_layers, 1)

    def forward(self, x: Maps, labels: Labels | None = None) -> Float[Tensor, " B"]:
        return self.layers(_with_class(x.flatten(1), labels, self.num_classes)).flatten()  # type: ignore[no-any-return]
