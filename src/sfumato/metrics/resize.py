"""How images reach the size that a feature network was trained with."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.images import UInt8Images


def as_rgb(images: UInt8Images) -> Float[Tensor, "B 3 H W"]:
    """float32 in 0..255 with three channels: grey is repeated, transparency laid on white."""
    channels = images.shape[1]
    if channels == 4:
        opacity = images[:, 3:].float() / 255
        return images[:, :3].float() * opacity + 255 * (1 - opacity)
    return images.expand(-1, 3, -1, -1).float()


def clean_resize(
    images: Float[Tensor, "B 3 H W"], size: tuple[int, int]
) -> Float[Tensor, "B 3 h w"]:
    """Bicubic as Pillow does it on floats: antialiased when shrinking, never rounded.

    Source: Parmar et al. 2022 (On aliased resizing and surprising subtleties in GAN evaluation).
    """
    resized = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 255)


def tensorflow_resize(
    images: Float[Tensor, "B 3 H W"], size: tuple[int, int]
) -> Float[Tensor, "B 3 h w"]:
    """Bilinear as TensorFlow 1 does it, which the published FID values rest on.

    Output pixel i is read at i * scale, without the half-pixel offset, and without antialiasing.
    """
    for dim, target in ((2, size[0]), (3, size[1])):
        source = images.shape[dim]
        at = torch.arange(target, device=images.device) * torch.tensor(
            source / target, dtype=torch.float32
        )
        low = at.long()
        high = (low + 1).clamp(max=source - 1)
        share = at - low
        if source <= target:  # a product with a small matrix is faster
            every = torch.arange(target, device=images.device)
            weights = torch.zeros(target, source, device=images.device)
            weights[every, low] += 1 - share
            weights[every, high] += share
            images = weights @ images if dim == 2 else images @ weights.T
        else:
            share = share.reshape((-1, 1) if dim == 2 else (-1,))
            first, second = images.index_select(dim, low), images.index_select(dim, high)
            images = first + (second - first) * share
    return images
