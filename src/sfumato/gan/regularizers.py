"""Penalties on gradients, one value per image.

Those of the discriminator look at a `DiscriminatorBatch`; that of the generator at StyleGAN2's path
lengths. A penalty with `every` above 1 is a phase of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sfumato.core.config import PositiveFloat, PositiveFraction, PositiveInt, component
from sfumato.core.images import Images
from sfumato.core.noise import RandomStream
from sfumato.gan.losses import Logits


@dataclass(frozen=True)
class DiscriminatorBatch:
    """Real and generated images of one step, and the discriminator's logits of them.

    Each is computed once, when it is first asked for.

    Args:
        real: real images. Those whose gradient a regularizer wants require it.
        generate: makes as many generated images.
        judge: the discriminator, with all that happens to an image before it.
    """

    real: Images
    generate: Callable[[], Images]
    judge: Callable[[Images], Logits]

    @cached_property
    def fake(self) -> Images:
        """The generated images."""
        return self.generate()

    @cached_property
    def real_logits(self) -> Logits:
        """The logits of the real images."""
        return self.judge(self.real)

    @cached_property
    def fake_logits(self) -> Logits:
        """The logits of the generated images."""
        return self.judge(self.fake)


def gradient_of(logits: Logits, images: Images) -> Images:
    """The gradient of each image's logit by the image, itself differentiable.

    Assumes that a logit depends on its own image alone.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient


@component
class R1:
    """weight / 2 times the squared gradient of the logit at real images.

    Source: Mescheder et al. 2018, eq. 9; every 16th step as in StyleGAN2 (Karras et al. 2020).
    """

    kind: Literal["r1"] = "r1"
    weight: PositiveFloat = 10.0
    every: PositiveInt = 16

    def penalty(self, batch: DiscriminatorBatch, noise: RandomStream) -> Float[Tensor, " B"]:
        """One value per image."""
        gradient = gradient_of(batch.real_logits, batch.real)
        return self.weight / 2 * gradient.flatten(1).square().sum(1)


@component
class R2:
    """weight / 2 times the squared gradient of the logit at generated images.

    Source: Mescheder et al. 2018, eq. 10.
    """

    kind: Literal["r2"] = "r2"
    weight: PositiveFloat = 10.0
    every: PositiveInt = 16

    def penalty(self, batch: DiscriminatorBatch, noise: RandomStream) -> Float[Tensor, " B"]:
        """One value per image."""
        gradient = gradient_of(batch.fake_logits, batch.fake)
        return self.weight / 2 * gradient.flatten(1).square().sum(1)


@component
class GradientPenalty:
    """weight times (|gradient| - 1)^2 at points between real and generated images.

    Source: Gulrajani et al. 2017 (WGAN-GP), eq. 3.
    """

    kind: Literal["gradient_penalty"] = "gradient_penalty"
    weight: PositiveFloat = 10.0
    every: PositiveInt = 1

    def penalty(self, batch: DiscriminatorBatch, noise: RandomStream) -> Float[Tensor, " B"]:
        """One value per image; `noise` draws the points."""
        real, fake = batch.real.detach(), batch.fake.detach()
        between = torch.lerp(real, fake, noise.uniform(1, 1, 1).to(real)).requires_grad_(True)
        gradient = gradient_of(batch.judge(between), between)
        # The norm of a gradient of exactly 0 has no derivative; the 1e-12 gives it one.
        norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
        return self.weight * (norm - 1).square()


@component
class PathLength:
    """weight times (|J^T y| - a)^2: a step in w should move the image equally far everywhere.

    J is the Jacobian of the image by w, y a random image of unit expected size, and a the running
    mean of the lengths.

    Args:
        decay: share of the newest lengths in their running mean.
        batch_share: 1 / the part of the batch that is used: the gradient is an expensive one.
    Source: Karras et al. 2020 (StyleGAN2), section 3.2 and appendix B.
    """

    kind: Literal["path_length"] = "path_length"
    weight: PositiveFloat = 2.0
    every: PositiveInt = 4
    decay: PositiveFraction = 0.01
    batch_share: PositiveInt = 2

    def penalty(self, lengths: Float[Tensor, " B"], mean: Float[Tensor, ""]) -> Float[Tensor, " B"]:
        """One value per image, from its path length and their running mean."""
        return self.weight * (lengths - mean).square()


def path_lengths(
    images: Images, styles: Float[Tensor, "B L S"], noise: RandomStream
) -> Float[Tensor, " B"]:
    """|J^T y| of each image: root mean over the layers of the squared gradient by their w.

    y ~ N(0, I) / sqrt(H W), so that lengths do not depend on the resolution.
    """
    y = noise.normal_like(images) / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * y).sum(), styles, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


DiscriminatorRegularizer = R1 | R2 | GradientPenalty
Regularizer = Annotated[R1 | R2 | GradientPenalty | PathLength, Field(discriminator="kind")]
