"""Affine maps of the plane and of colours, and images whose pixels such a map moves.

Maps are homogeneous matrices, one per image, in float64 on the CPU.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sfumato.augment.wavelets import DELAY, MARGIN, doubling, fold, shrinking
from sfumato.core.images import Images

PerImage = Float[Tensor, " B"]
Plane = Float[Tensor, "B 3 3"]
"""Maps (x, y, 1) in pixels from the centre of an image, x to the right and y down."""
Colour = Float[Tensor, "B 4 4"]
"""Maps (r, g, b, 1), values in [-1, 1]."""


def identity(count: int, size: int) -> Float[Tensor, "B n n"]:
    """`count` unit matrices."""
    return torch.eye(size, dtype=torch.float64).repeat(count, 1, 1)


def scale_2d(x: PerImage, y: PerImage) -> Plane:
    """Stretch by x and y."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def rotate_2d(angle: PerImage) -> Plane:
    """Turn by `angle` (radians), clockwise as seen, since y points down."""
    matrix = identity(len(angle), 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 1, 0] = angle.sin()
    matrix[:, 0, 1] = -angle.sin()
    return matrix


def translate_2d(x: PerImage, y: PerImage) -> Plane:
    """Move right by x and down by y."""
    matrix = identity(len(x), 3)
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def translate_colour(by: PerImage) -> Colour:
    """Add `by` to all three values: brightness."""
    matrix = identity(len(by), 4)
    matrix[:, :3, 3] = by[:, None]
    return matrix


def scale_colour(by: PerImage) -> Colour:
    """Multiply all three values: contrast about mid grey."""
    matrix = identity(len(by), 4) * by[:, None, None]
    matrix[:, 3, 3] = 1
    return matrix


def flip_luma(by: PerImage) -> Colour:
    """Where `by` is 1: reflect at the plane through 0 at right angles to the grey axis."""
    return identity(len(by), 4) - 2 * by[:, None, None] * _grey()


def rotate_hue(angle: PerImage) -> Colour:
    """Turn about the grey axis by `angle` (radians)."""
    axis = 3**-0.5
    cross = torch.zeros(4, 4, dtype=torch.float64)
    cross[0, 1] = cross[1, 2] = cross[2, 0] = -axis
    cross[1, 0] = cross[2, 1] = cross[0, 2] = axis
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return _grey() + cos * _chroma() + sin * cross + _last()


def saturate(by: PerImage) -> Colour:
    """Multiply the distance from the grey axis."""
    return _grey() + by[:, None, None] * _chroma() + _last()


def _grey() -> Float[Tensor, "4 4"]:
    """The projection onto the grey axis (1, 1, 1, 0)."""
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[:3, :3] = 1 / 3
    return matrix


def _last() -> Float[Tensor, "4 4"]:
    return torch.diag(torch.tensor([0, 0, 0, 1], dtype=torch.float64))


def _chroma() -> Float[Tensor, "4 4"]:
    """The projection onto the plane at right angles to the grey axis."""
    return torch.eye(4, dtype=torch.float64) - _last() - _grey()


def transformed(
    images: Images, matrices: Float[Tensor, "B n n"], change: Callable[[Images, Tensor], Images]
) -> Images:
    """`change` those images alone whose matrix is not the unit matrix; the others stay exactly."""
    unit = torch.eye(matrices.shape[1], dtype=matrices.dtype)
    rows = torch.nonzero((matrices != unit).flatten(1).any(1)).squeeze(1)  # on the CPU: no waiting
    if len(rows) == 0:
        return images
    if len(rows) == len(images):
        return change(images, matrices)
    there = rows.to(images.device)
    return images.index_copy(0, there, change(images[there], matrices[rows]))


def move_pixels(images: Images, matrices: Plane) -> Images:
    """Transforms that map pixels to pixels: flips, quarter turns, whole steps.

    What comes into view is the image reflected at its border. A quarter turn of an image of
    which one side is odd and the other even is half a pixel off centre.
    """
    height, width = images.shape[2:]
    back = torch.linalg.inv(matrices).round().long()
    # In half pixels from the centre, to stay with integers.
    y, x = torch.meshgrid(
        2 * torch.arange(height) - (height - 1),
        2 * torch.arange(width) - (width - 1),
        indexing="ij",
    )
    at = torch.stack([x.flatten(), y.flatten(), torch.full((height * width,), 2)])
    from_x, from_y = (back[:, :2] @ at).unbind(1)
    columns = fold((from_x + width - 1).div(2, rounding_mode="floor"), width)
    rows = fold((from_y + height - 1).div(2, rounding_mode="floor"), height)
    index = (rows * width + columns).to(images.device)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).reshape(images.shape)


def warp(images: Images, matrices: Plane) -> Images:
    """Any affine transform: twice the resolution by SYM6, bilinear lookup, and back down.

    The image is continued by reflection. Differentiable in the images, any number of times.

    Source: Karras et al. 2020 (ADA), appendix B. There the image is padded by reflection first,
    here positions are reflected, which is the same without the memory.
    """
    height, width = images.shape[2:]
    up_y, up_x = doubling(height).to(images), doubling(width).to(images)
    large = up_y @ images @ up_x.T
    lookup = _positions(torch.linalg.inv(matrices), height, width).to(images)
    sampled = _Lookup.apply(large, lookup)
    return shrinking(height).to(images) @ sampled @ shrinking(width).to(images).T  # type: ignore[no-any-return]


def _positions(back: Plane, height: int, width: int) -> Float[Tensor, "B h w 2"]:
    """Where in the doubled image each sample of the doubled result comes from, in [-1, 1]."""

    def axis(size: int) -> Tensor:
        """Samples of the doubled result in pixels from the centre."""
        doubled = torch.arange(-MARGIN, 2 * size + MARGIN, dtype=torch.float32)
        return (doubled - DELAY) / 2 - (size - 1) / 2

    back = back.float()[:, :, :, None, None]
    x, y = axis(width)[None, None, :], axis(height)[None, :, None]
    found = []
    for row, size in ((0, width), (1, height)):
        source = back[:, row, 0] * x + back[:, row, 1] * y + back[:, row, 2]
        doubled = 2 * fold(source + (size - 1) / 2, size) + DELAY + 1  # the first is at -1
        found.append(2 * doubled / (2 * size + 1) - 1)
    return torch.stack(found, dim=-1)


class _Lookup(torch.autograd.Function):
    """Bilinear lookup. It is linear in the image, so its derivatives are itself and its transpose.

    PyTorch's own cannot be differentiated twice, as penalties on a discriminator's gradient need.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.shape = image.shape
        return F.grid_sample(image, positions, mode="bilinear", align_corners=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (positions,) = ctx.saved_tensors
        return _LookupTransposed.apply(gradients[0], positions, ctx.shape), None


class _LookupTransposed(torch.autograd.Function):
    """Adds each value to the four samples that it was looked up from."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, positions: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(positions)
        image = values.new_zeros(()).expand(shape)  # only its shape is used
        found, _ = torch.ops.aten.grid_sampler_2d_backward(
            values.contiguous(), image, positions, 0, 0, True, (True, False)
        )
        return found  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        return _Lookup.apply(gradients[0], positions), None, None
