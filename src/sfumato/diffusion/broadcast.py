"""Where float64 coefficients on the CPU meet images on any device."""

from jaxtyping import Float, Float64
from torch import Tensor

Times = Float64[Tensor, "*B"]
"""One time for the whole batch (a scalar) or one an image; float64, on the CPU, in [0, 1]."""
TimeGrid = Float64[Tensor, " _"]
"""The times that a sampler visits, falling."""


def per_image(coefficient: Float64[Tensor, "*B"], x: Float[Tensor, "B ..."]) -> Tensor:
    """`coefficient` in a form that multiplies the images `x` without changing their dtype.

    A scalar stays as it is: torch multiplies images on any device by a scalar of the CPU, with
    neither a copy nor a synchronization. One number an image becomes a column of x's device.
    """
    if coefficient.ndim == 0:
        return coefficient
    return one_each(coefficient, x).view(-1, *[1] * (x.ndim - 1))


def one_each(coefficient: Float64[Tensor, "*B"], x: Float[Tensor, "B ..."]) -> Float[Tensor, " B"]:
    """`coefficient` as one number an image, of x's dtype and device, which nobody waits for."""
    if coefficient.ndim == 0:
        return x.new_full((len(x),), coefficient.item())
    return coefficient.to(x, non_blocking=True)
