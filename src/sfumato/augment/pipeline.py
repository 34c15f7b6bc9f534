"""The augmentation pipeline of ADA: 18 random changes, each with the same small probability."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.augment import affine
from sfumato.augment.affine import Colour, PerImage, Plane, move_pixels, transformed, warp
from sfumato.augment.wavelets import band_axes
from sfumato.core.config import component
from sfumato.core.images import Images
from sfumato.core.noise import RandomStream

STEP = 0.125
"""Of the size of the image: largest whole step, and standard deviation of any translation."""
SCALE, CONTRAST, SATURATION, BAND = 0.2, 0.5, 1.0, 1.0
"""Standard deviations of the log2 of factors."""
BRIGHTNESS, NOISE = 0.2, 0.1
CUTOUT = 0.5
"""Sides of the covered rectangle, as a share of those of the image."""
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


class Chances:
    """Parameters drawn for each image; neutral except with probability `p`."""

    def __init__(self, noise: RandomStream, p: float) -> None:
        self.noise = noise
        self.p = p

    def take(self, value: PerImage, neutral: float, p: float | None = None) -> PerImage:
        """The value, or with probability 1 - p the neutral one."""
        chosen = self.noise.uniform() < (self.p if p is None else p)
        return torch.where(chosen, value, neutral)

    def normal(self) -> PerImage:
        """N(0, 1)."""
        return self.noise.normal().double()

    def factor(self, std: float, p: float | None = None) -> PerImage:
        """A factor whose log2 is N(0, std^2), or 1."""
        return self.take(torch.exp2(std * self.normal()), 1.0, p)

    def shift(self, std: float) -> PerImage:
        """N(0, std^2), or 0."""
        return self.take(std * self.normal(), 0.0)

    def angle(self, p: float | None = None) -> PerImage:
        """Uniform on the circle, or 0."""
        return self.take((2 * self.noise.uniform() - 1) * math.pi, 0.0, p)

    def choice(self, count: int) -> PerImage:
        """0 to count - 1, or 0."""
        return self.take(self.noise.integers(count).double(), 0.0)


@component
class Pipeline:
    """Which groups of random changes there are. Each change happens with the same probability.

    A change does not leak into generated images as long as the distributions before and after it
    can be distinguished. That holds while each is left out often enough: p below 0.8.

    Args:
        blit: mirror images, quarter turns and whole steps, pixels moved exactly.
        geometric: scaling, rotation, stretching, translation, resampled.
        colour: brightness, contrast, reflection at the luma axis, hue, saturation.
        filtering: amplification of frequency bands.
        noise: Gaussian noise in every value.
        cutout: mid grey over a quarter of the image.

    Source: Karras et al. 2020 (ADA), appendix B; `blit`, `geometric` and `colour` are the "bgc"
    that the paper settled on.
    """

    blit: bool = True
    geometric: bool = True
    colour: bool = True
    filtering: bool = False
    noise: bool = False
    cutout: bool = False

    def __post_init__(self) -> None:
        if not any(vars(self).values()):
            raise ValueError("every group of changes is off; switch one on, or leave augment out")

    def __call__(self, images: Images, noise: RandomStream, p: float) -> Images:
        """The changed images, float32 and differentiable; values may leave [-1, 1].

        Args:
            images: in [-1, 1], 1, 3 or 4 channels.
            noise: B streams. What is drawn does not depend on `p`.
            p: probability of each change, 0 to 1; images that draw none stay exactly.
        """
        chances = Chances(noise, p)
        size = images.shape[2:]
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            if self.blit:
                images = transformed(images, blits(chances, *size), move_pixels)
            if self.geometric:
                images = transformed(images, geometries(chances, *size), warp)
            if self.colour:
                images = transformed(images, colours(chances), recolour)
            if self.filtering:
                gains = band_gains(chances)
                # As a matrix, which `transformed` compares with the unit matrix.
                images = transformed(
                    images,
                    torch.diag_embed(gains),
                    lambda x, g: amplify(x, g.diagonal(dim1=1, dim2=2)),
                )
            if self.noise:
                std = chances.take(chances.normal().abs() * NOISE, 0.0).to(images)
                images = images + std[:, None, None, None] * noise.normal_like(images)
            if self.cutout:
                centre = noise.uniform(2)
                centre[:, 0] = chances.take(centre[:, 0], torch.inf)
                images = cut_out(images, centre, CUTOUT)
        return images


def blits(chances: Chances, height: int, width: int) -> Plane:
    """Mirror images, quarter turns, and steps of at most 1/8 of the image."""
    flip = chances.choice(2)
    matrix = affine.scale_2d(1 - 2 * flip, torch.ones_like(flip))
    quarter = affine.rotate_2d(chances.choice(4) * (math.pi / 2)).round()
    steps = [
        (chances.take((2 * chances.noise.uniform() - 1) * STEP, 0.0) * pixels).round()
        for pixels in (width, height)
    ]
    return affine.translate_2d(*steps) @ quarter @ matrix


def geometries(chances: Chances, height: int, width: int) -> Plane:
    """Scaling, rotation, stretching, rotation, translation."""
    either = 1 - math.sqrt(1 - min(chances.p, 1.0))  # so that one of two rotations happens with p
    scale = chances.factor(SCALE)
    matrix = affine.scale_2d(scale, scale)
    matrix = affine.rotate_2d(-chances.angle(either)) @ matrix
    stretch = chances.factor(SCALE)
    matrix = affine.scale_2d(stretch, 1 / stretch) @ matrix
    matrix = affine.rotate_2d(-chances.angle(either)) @ matrix
    moved = chances.noise.uniform() < chances.p  # both ways or not at all
    x, y = (moved * chances.normal() * STEP * pixels for pixels in (width, height))
    return affine.translate_2d(x, y) @ matrix


def colours(chances: Chances) -> Colour:
    """Brightness, contrast, luma flip, hue, saturation."""
    matrix = affine.translate_colour(chances.shift(BRIGHTNESS))
    matrix = affine.scale_colour(chances.factor(CONTRAST)) @ matrix
    matrix = affine.flip_luma(chances.choice(2)) @ matrix
    matrix = affine.rotate_hue(chances.angle()) @ matrix
    return affine.saturate(chances.factor(SATURATION)) @ matrix


def band_gains(chances: Chances) -> Float[Tensor, "B 4"]:
    """Each band amplified in turn, the power of a natural image staying the same."""
    gains = torch.ones(len(chances.noise), 4, dtype=torch.float64)
    for band in range(4):
        gains = gains * normalized_gain(band, chances.factor(BAND))
    return gains
