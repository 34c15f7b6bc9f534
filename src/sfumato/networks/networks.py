"""The networks a denoiser can be built from. To add one, list its config here."""

from sfumato.networks.unet import UNetConfig

Network = UNetConfig
