"""Geometric augmentation for diffusion models, which take the change of each image as input."""

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.augment import affine
from sfumato.augment.affine import move_pixels, transformed, warp
from sfumato.augment.pipeline import Chances
from sfumato.core.config import PositiveFraction, component
from sfumato.core.images import Images
from sfumato.core.noise import RandomStream

NUM_LABELS = 9
SCALE = 0.2
"""Standard deviation of the log2 of scaling and stretching."""
MOVE = 0.125
"""Of a translation, as a share of the image."""


@component
class LabelledAugmentation:
    """ADA's geometric changes of clean images, each with a number that the network takes as input.

    Sampling gives the network the labels of an unchanged image (all 0), so that it draws
    unchanged ones.

    Args:
        probability: of each change; 0.12 to 0.15 in the paper.
        mirror: half of the images are mirror images, whatever the probability.

    Source: Karras et al. 2022 (EDM), appendix F.2.
    """

    probability: PositiveFraction = 0.12
    mirror: bool = True

    def __call__(self, images: Images, noise: RandomStream) -> tuple[Images, Float[Tensor, "B 9"]]:
        """The changed images and their labels, all 0 where nothing was changed.

        Mirrored, upside down, scale, rotation (cos - 1 and sin), stretching (times cos and sin of
        twice the angle of its direction), translation right and down; scale, stretching and
        translation in their standard deviations.

        The paper has the angle itself, which gives a stretch and a squeeze along one direction
        the same labels; twice the angle separates them.
        """
        chances = Chances(noise, self.probability)
        height, width = images.shape[2:]
        one = torch.ones(len(noise), dtype=torch.float64)
        mirrored = noise.integers(2).double() * self.mirror
        upside_down = chances.choice(2)
        flips = affine.scale_2d(1 - 2 * mirrored, 1 - 2 * upside_down)

        scale = chances.take(chances.normal(), 0.0)
        factor = torch.exp2(SCALE * scale)
        angle = chances.angle()
        direction, stretch = chances.angle(1.0), chances.take(chances.normal(), 0.0)
        along = torch.exp2(SCALE * stretch)
        moved = (noise.uniform() < self.probability) * one
        x, y = moved * chances.normal(), moved * chances.normal()
        matrix = affine.rotate_2d(-angle) @ affine.scale_2d(factor, factor)
        # Turned, stretched, turned back: exactly the unit matrix where nothing is stretched.
        turned = torch.where(stretch == 0, 0.0, direction)
        matrix = affine.rotate_2d(-turned) @ matrix
        matrix = affine.scale_2d(along, 1 / along) @ matrix
        matrix = affine.rotate_2d(turned) @ matrix
        matrix = affine.translate_2d(x * MOVE * width, y * MOVE * height) @ matrix

        labels = torch.stack(
            [
                mirrored,
                upside_down,
                scale,
                angle.cos() - 1,
                angle.sin(),
                stretch * (2 * direction).cos(),
                stretch * (2 * direction).sin(),
                x,
                y,
            ],
            dim=1,
        )
        with torch.autocast(images.device.type, enabled=False):
            images = transformed(transformed(images, flips, move_pixels), matrix, warp)
        return images, labels.to(images)
