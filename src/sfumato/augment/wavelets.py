"""Filters of orthogonal wavelets as matrices along one axis, the border reflected.

An image of H x W is filtered as A X B^T. A product with a dense matrix is as fast on a CPU as a
convolution of few channels, differentiable any number of times, and needs no padding.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
"""Lowpass of the symlet with 2 vanishing moments (Daubechies 1992, table 6.3)."""
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""Lowpass of the symlet with 6 vanishing moments (Daubechies 1992, table 6.3)."""

MARGIN = 5
"""Samples that `shrinking` needs on either side of those it keeps: half the length of SYM6."""
DELAY = sum(j * h for j, h in enumerate(SYM6)) / 2**0.5 - MARGIN
"""Sample n of an axis lies at 2 n + DELAY on the axis of twice as many samples."""

Axis = Float[Tensor, "out in"]


def fold(position: Shaped[Tensor, "..."], size: int) -> Shaped[Tensor, "..."]:
    """Positions outside 0..size-1 reflected about the first and last sample, as often as needed."""
    if size == 1:
        return torch.zeros_like(position)
    period = 2 * (size - 1)
    position = position.remainder(period)
    return torch.minimum(position, period - position)


@lru_cache(maxsize=64)
def doubling(size: int) -> Axis:
    """[2 size + 2, size]: an axis of twice as many samples, from position -1 on; constants stay."""
    taps = torch.tensor(SYM6, dtype=torch.float64) * 2**0.5
    around = torch.arange(-MARGIN - 1, size + MARGIN + 1)  # samples, some of them reflected
    k = torch.arange(-1, 2 * size + 1)
    j = k[:, None] - 2 * around + MARGIN
    values = torch.where((j >= 0) & (j < len(taps)), taps[j.clamp(0, len(taps) - 1)], 0.0)
    return _reflected(values, around, size)


@lru_cache(maxsize=64)
def shrinking(size: int) -> Axis:
    """[size, 2 size + 2 MARGIN]: the inverse, of samples from position -MARGIN on."""
    taps = torch.tensor(SYM6, dtype=torch.float64) / 2**0.5
    j = torch.arange(2 * size + 2 * MARGIN) - 2 * torch.arange(size)[:, None]
    values = torch.where((j >= 0) & (j < len(taps)), taps[j.clamp(0, len(taps) - 1)], 0.0)
    return values.float()


def band_filters() -> Float[Tensor, "4 taps"]:
    """Zero-phase filters of the frequency bands [0, 1/8], [1/8, 1/4], [1/4, 1/2], [1/2, 1] of pi.

    They add up to the unit impulse. Each band splits off the upper half of what is left, by the
    halfband filters H(z) H(1/z) / 2 and H(-z) H(-1/z) / 2 of SYM2 at its scale.

    Source: Karras et al. 2020 (ADA), appendix B.
    """
    taps = torch.tensor(SYM2, dtype=torch.float64)
    low = _convolve(taps, taps.flip(0)) / 2
    sign = (-1.0) ** torch.arange(len(low))
    high = -low * sign  # the middle tap, which is odd, keeps its sign
    bands, rest = [], torch.ones(1, dtype=torch.float64)
    for scale in (1, 2, 4):
        bands.append(_convolve(rest, _spread(high, scale)))
        rest = _convolve(rest, _spread(low, scale))
    bands.append(rest)
    length = len(rest)
    padded = [torch.nn.functional.pad(b, [(length - len(b)) // 2] * 2) for b in bands]
    return torch.stack(padded[::-1])


@lru_cache(maxsize=64)
def band_axes(size: int) -> Float[Tensor, "4 size size"]:
    """The filters of the four bands as matrices."""
    filters = band_filters()
    half = filters.shape[1] // 2
    around = torch.arange(-half, size + half)
    j = torch.arange(size)[:, None] - around + half
    inside = (j >= 0) & (j < filters.shape[1])
    values = torch.where(inside, filters[:, j.clamp(0, filters.shape[1] - 1)], 0.0)
    return torch.stack([_reflected(band, around, size) for band in values])


def _reflected(values: Tensor, around: Tensor, size: int) -> Axis:
    """Columns of samples outside 0..size-1 added to those of their mirror images."""
    columns = fold(around, size)
    matrix = torch.zeros(len(values), size, dtype=torch.float64)
    return matrix.index_add_(1, columns, values).float()


def _spread(taps: Tensor, factor: int) -> Tensor:
    """H(z^factor)."""
    spread = torch.zeros((len(taps) - 1) * factor + 1, dtype=taps.dtype)
    spread[::factor] = taps
    return spread


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(a, [len(b) - 1] * 2)
    return torch.nn.functional.conv1d(padded[None, None], b.flip(0)[None, None])[0, 0]
