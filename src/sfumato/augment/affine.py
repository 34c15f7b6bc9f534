"""Homogeneous matrices of plane and colour transforms, one per image, in float64 on the CPU."""

import torch
from jaxtyping import Float
from torch import Tensor

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
