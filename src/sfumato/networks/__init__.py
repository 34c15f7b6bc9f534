"""The networks a model can be built from. To add one, list its config here.

The config of a denoiser's network has `build(image_shape, num_classes, out_channels)`.

The config of a GAN's pair has `build(image_shape, num_classes) -> (generator, discriminator)` and
three facts that decide what the pair can be combined with: `mixes_images` (batch normalization in
the discriminator), `bounded_slope` (spectral normalization there) and `has_styles` (the generator
maps z to w). A generator has `latent_dim` and `forward(z, labels, noise)`, a discriminator
`forward(x, labels)`.
"""

from typing import Annotated

from pydantic import Field

from sfumato.networks.attention_unet import AttentionUNetConfig
from sfumato.networks.dcgan import DCGANConfig
from sfumato.networks.ddpmpp import DDPMPPConfig
from sfumato.networks.dit import DiTConfig
from sfumato.networks.edm2 import EDM2Config
from sfumato.networks.mlp_gan import MLPGANConfig
from sfumato.networks.plain_nets import ConvNetConfig, MinimalUNetConfig
from sfumato.networks.resnet_gan import ResNetGANConfig
from sfumato.networks.stylegan2 import StyleGAN2Config
from sfumato.networks.unet import UNetConfig

TAKES_AUGMENT_LABELS = (UNetConfig, DDPMPPConfig)
"""Their networks take how an image was changed, by `embed_time.take_augment_labels`."""

Network = Annotated[
    UNetConfig
    | DDPMPPConfig
    | EDM2Config
    | DiTConfig
    | AttentionUNetConfig
    | MinimalUNetConfig
    | ConvNetConfig,
    Field(discriminator="kind"),
]
NetworkPair = Annotated[
    DCGANConfig | ResNetGANConfig | StyleGAN2Config | MLPGANConfig, Field(discriminator="kind")
]
