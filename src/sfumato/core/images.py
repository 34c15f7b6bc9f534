"""Images and their value ranges, in one place.

Models see float32 in [-1, 1]; files and metrics see uint8 in 0..255. The 256 levels are the
points u / 127.5 - 1, both ends included, so the round trip is exact.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

Images = Float[Tensor, "B C H W"]
UInt8Images = UInt8[Tensor, "B C H W"]
Labels = Int64[Tensor, " B"]
Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True)
class Batch:
    """Images in [-1, 1] and, for a labelled data set, their classes (int64).

    Args:
        augment_labels: how each image was augmented, for a network that takes this.
        images_seen: in training before this batch; schedules within a run depend on it.
    """

    images: Images
    labels: Labels | None = None
    images_seen: int = 0
    augment_labels: Float[Tensor, "B A"] | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def part(self, which: slice) -> "Batch":
        """The images at positions `which`, with their labels."""
        labels = None if self.labels is None else self.labels[which]
        augment_labels = None if self.augment_labels is None else self.augment_labels[which]
        return Batch(self.images[which], labels, self.images_seen, augment_labels)


def from_uint8(images: UInt8Images) -> Images:
    """uint8 in 0..255 to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Images) -> UInt8Images:
    """Float in [-1, 1] to uint8 in 0..255, rounded to nearest; values outside are clipped."""
    return ((images.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def within_range(x_t: Images) -> Images:
    """Noisy images scaled down to [-1, 1] where they exceed it, each by its largest value."""
    return x_t / x_t.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)
