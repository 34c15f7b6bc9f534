"""The networks a denoiser can be built from. To add one, list its config here."""

from typing import Annotated

from pydantic import Field

from sfumato.networks.attention_unet import AttentionUNetConfig
from sfumato.networks.conv_net import ConvNetConfig
from sfumato.networks.ddpmpp import DDPMPPConfig
from sfumato.networks.dit import DiTConfig
from sfumato.networks.edm2 import EDM2Config
from sfumato.networks.minimal_unet import MinimalUNetConfig
from sfumato.networks.unet import UNetConfig

TAKES_AUGMENT_LABELS = (UNetConfig, DDPMPPConfig)
"""Their networks can be told how an image was changed, by `embed_time.take_augment_labels`."""

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
