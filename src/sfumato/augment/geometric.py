"""Flips and shifted crops of a batch, on its device."""

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from sfumato.core.config import NonNegativeInt, component
from sfumato.core.noise import RandomStream


@component
class Augmentation:
    """Random mirror images and crops, drawn for each image of a batch.

    Args:
        flip: mirror left and right with probability 1/2. Never for digits and letters.
        shift: crop at a random offset of at most this many pixels each way; what comes into
            view is the image reflected at its border.
    """

    flip: bool = False
    shift: NonNegativeInt = 0

    def __call__(
        self, images: Shaped[Tensor, "B C H W"], noise: RandomStream
    ) -> Shaped[Tensor, "B C H W"]:
        """The changed images: same shape, dtype, device and range; `noise` has B streams."""
        height, width = images.shape[2:]
        rows = torch.arange(height).expand(len(images), -1)
        columns = torch.arange(width).expand(len(images), -1)
        if self.shift:
            if self.shift >= min(height, width):
                raise ValueError(
                    f"augment.shift is {self.shift}; for images of {height}x{width} pixels it "
                    f"should be below {min(height, width)}"
                )
            offsets = noise.integers(2 * self.shift + 1, 2) - self.shift
            rows = _reflect(rows + offsets[:, :1], height)
            columns = _reflect(columns + offsets[:, 1:], width)
        if self.flip:
            columns = torch.where(noise.integers(2, 1) == 1, columns.flip(1), columns)
        if not (self.flip or self.shift):
            return images
        at = torch.arange(len(images), device=images.device)[:, None, None]
        rows, columns = rows.to(images.device), columns.to(images.device)
        # Indices on both sides of the channel slice put the channels last.
        return images[at, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _reflect(index: Int64[Tensor, "B S"], size: int) -> Int64[Tensor, "B S"]:
    """Indices outside 0..size-1, by less than `size`, mirrored about the first or last pixel."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)
