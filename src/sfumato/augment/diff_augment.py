"""Differentiable augmentation of fixed strength (DiffAugment)."""

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.augment.colour import cut_out
from sfumato.core.noise import RandomStream


def vary_colour(images: Float[Tensor, "B C H W"], noise: RandomStream) -> Float[Tensor, "B C H W"]:
    """Brightness, saturation and contrast, each uniformly drawn about no change.

    Opacity, the fourth channel, stays. Source: Zhao et al. 2020, appendix A.
    """
    brightness, saturation, contrast = (
        u[:, None, None, None].to(images) for u in noise.uniform(3).unbind(1)
    )
    x = images[:, :3] + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (x - middle) * (contrast + 0.5) + middle
    return torch.cat([x, images[:, 3:]], dim=1) if images.shape[1] > 3 else x


def step_aside(
    images: Float[Tensor, "B C H W"], noise: RandomStream, share: float
) -> Float[Tensor, "B C H W"]:
    """Move by whole pixels, at most `share` of each side, mid grey coming into view."""
    height, width = images.shape[2:]
    steps = []
    for pixels in (width, height):
        largest = int(pixels * share + 0.5)
        steps.append(noise.integers(2 * largest + 1) - largest)
    index, inside = [], []
    for step, pixels in zip(steps, (width, height), strict=True):
        source = torch.arange(pixels) - step[:, None]
        inside.append((source >= 0) & (source < pixels))
        index.append(source.clamp(0, pixels - 1))
    flat = index[1][:, :, None] * width + index[0][:, None, :]
    flat = flat.flatten(1)[:, None].expand(-1, images.shape[1], -1).to(images.device)
    seen = (inside[1][:, :, None] & inside[0][:, None, :])[:, None].to(images.device)
    return images.flatten(2).gather(2, flat).reshape(images.shape) * seen


def cover(
    images: Float[Tensor, "B C H W"], noise: RandomStream, share: float
) -> Float[Tensor, "B C H W"]:
    """Mid grey over a rectangle with `share` of each side, its centre anywhere in the image."""
    return cut_out(images, noise.uniform(2), share)
