"""A GAN as a generative model of two phases."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.config import component
from sfumato.core.images import Batch, Images, Labels, Shape
from sfumato.core.model import OnStep, Phase
from sfumato.core.noise import RandomStream
from sfumato.gan.losses import GANLoss, NonSaturatingLoss
from sfumato.networks.dcgan import DCGANConfig


@component
class GANConfig:
    """A generator and a discriminator that play against each other.

    Args:
        network: builds the pair.
        loss: what they minimize.
        input_noise: standard deviation of Gaussian noise added to every image the discriminator
            sees, in the units of images in [-1, 1] (Arjovsky & Bottou 2017, section 3).
    """

    kind: Literal["gan"] = "gan"
    network: DCGANConfig = DCGANConfig()
    loss: GANLoss = NonSaturatingLoss()
    input_noise: float = 0.0

    def __post_init__(self) -> None:
        if self.input_noise < 0:
            raise ValueError(f"gan needs input_noise >= 0, got input_noise={self.input_noise}")

    def build(self, image_shape: Shape, num_classes: int) -> "GAN":
        """The model for images of `image_shape`; `num_classes` 0 makes it unconditional."""
        return GAN(self, image_shape, num_classes)


class GAN(nn.Module):
    """Generator, discriminator, and the phases that train them in turn."""

    nfe = 1

    def __init__(self, config: GANConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.loss = config.loss
        self.input_noise = config.input_noise
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.generator, self.discriminator = config.network.build(image_shape, num_classes)

    @property
    def sampled_module(self) -> nn.Module:
        """The generator."""
        return self.generator

    def phases(self) -> Sequence[Phase]:
        """One step of the discriminator, then one of the generator."""
        return (
            Phase("discriminator", self.discriminator, self.discriminator_loss),
            Phase("generator", self.generator, self.generator_loss),
        )

    def discriminator_loss(self, batch: Batch, noise: RandomStream) -> Float[Tensor, " B"]:
        """The real images against as many generated ones of the same classes."""
        with torch.no_grad():
            fake = self._generate(batch, noise)
        real_logits = self._judge(batch.images, batch.labels, noise)
        return self.loss.discriminator(real_logits, self._judge(fake, batch.labels, noise))

    def generator_loss(self, batch: Batch, noise: RandomStream) -> Float[Tensor, " B"]:
        """Generated images of the batch's classes, judged by the discriminator."""
        fake = self._generate(batch, noise)
        return self.loss.generator(self._judge(fake, batch.labels, noise))

    @torch.no_grad()
    def sample(
        self, labels: Labels | None, noise: RandomStream, on_step: OnStep | None = None
    ) -> Images:
        """Images in [-1, 1] from z ~ N(0, I), one for each stream of `noise`."""
        device = next(self.parameters()).device
        z = noise.normal(self.generator.latent_dim).to(device)
        if labels is not None:
            labels = labels.to(device)
        images = self.generator(z, labels if self.num_classes else None)
        if on_step is not None:
            on_step(0, images, images)
        return images.clamp(-1, 1)  # type: ignore[no-any-return]

    def _generate(self, batch: Batch, noise: RandomStream) -> Images:
        z = noise.normal(self.generator.latent_dim).to(batch.images)
        return self.generator(z, batch.labels)  # type: ignore[no-any-return]

    def _judge(self, x: Images, labels: Labels | None, noise: RandomStream) -> Float[Tensor, " B"]:
        if self.input_noise > 0:
            x = x + self.input_noise * noise.normal_like(x)
        return self.discriminator(x, labels).float()  # type: ignore[no-any-return]
