"""The networks a denoiser can be built from. To add one, list its config here."""

from typing import Annotated

from pydantic import Field

from sfumato.networks.attention_unet import AttentionUNetConfig
from sfumato.networks.unet import UNetConfig

Network = Annotated[UNetConfig | AttentionUNetConfig, Field(discriminator="kind")]
