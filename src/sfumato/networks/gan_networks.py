"""The pairs of networks a GAN can be built from. To add one, list its config here.

A config says `build(image_shape, num_classes) -> (generator, discriminator)` and three facts that
decide what the pair can be combined with: `mixes_images` (batch normalization in the
discriminator), `bounded_slope` (spectral normalization there) and `has_styles` (the generator
maps z to w). A generator has `latent_dim` and `forward(z, labels, noise)`, a discriminator
`forward(x, labels)`.
"""

from typing import Annotated

from pydantic import Field

from sfumato.networks.dcgan import DCGANConfig
from sfumato.networks.mlp_gan import MLPGANConfig
from sfumato.networks.resnet_gan import ResNetGANConfig
from sfumato.networks.stylegan2 import StyleGAN2Config

NetworkPair = Annotated[
    DCGANConfig | ResNetGANConfig | StyleGAN2Config | MLPGANConfig, Field(discriminator="kind")
]
