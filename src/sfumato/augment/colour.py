"""Changes of colour, frequency content, and what is covered or noisy."""

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.augment.affine import Colour, PerImage
from sfumato.augment.wavelets import band_axes

Images = Float[Tensor, "B C H W"]

POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""Of natural images in the four bands: 1 / f (Karras et al. 2020, appendix B)."""


def recolour(images: Images, matrices: Colour) -> Images:
    """Colours (r, g, b, 1) times the matrix of their image.

    Grey images are taken for colour images of equal values, and give the mean of the result.
    The fourth channel, opacity, stays.
    """
    matrices = matrices.to(images)
    linear, offset = matrices[:, :3, :3], matrices[:, :3, 3]
    if images.shape[1] == 1:
        gain = linear.sum((1, 2))[:, None, None, None] / 3
        return images * gain + offset.mean(1)[:, None, None, None]
    colours = torch.einsum("bij,bjhw->bihw", linear, images[:, :3]) + offset[:, :, None, None]
    return torch.cat([colours, images[:, 3:]], dim=1) if images.shape[1] > 3 else colours


def amplify(images: Images, gains: Float[Tensor, "B 4"]) -> Images:
    """Multiply the four frequency bands of `wavelets.band_filters`, along either axis."""
    rows, columns = (
        torch.einsum("bk,kij->bij", gains.to(images), band_axes(size).to(images))[:, None]
        for size in images.shape[2:]
    )
    return rows @ images @ columns.mT


def normalized_gain(band: int, gain: PerImage) -> Float[Tensor, "B 4"]:
    """The gains of all bands when one is amplified and the power of the image stays the same."""
    gains = torch.ones(len(gain), 4, dtype=gain.dtype)
    gains[:, band] = gain
    power = torch.tensor(POWER, dtype=gain.dtype)
    return gains / (power * gains**2).sum(1, keepdim=True).sqrt()


def cut_out(images: Images, centre: Float[Tensor, "B 2"], size: float) -> Images:
    """Mid grey over a rectangle.

    Args:
        centre: (x, y) as a share of width and height.
        size: its sides, as a share of width and height. 0 or less covers nothing.
    """
    inside = []
    for share, pixels in zip(centre.T, images.shape[:1:-1], strict=True):
        low = ((share - size / 2) * pixels).round()[:, None]
        high = ((share + size / 2) * pixels).round()[:, None]
        at = torch.arange(pixels)
        inside.append((at >= low) & (at < high))
    covered = inside[1][:, None, :, None] & inside[0][:, None, None, :]
    return images.masked_fill(covered.to(images.device), 0.0)
