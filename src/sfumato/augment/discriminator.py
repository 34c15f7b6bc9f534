"""Changes of real and generated images before a discriminator sees them."""

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sfumato.augment.pipeline import Pipeline, cut_out
from sfumato.core import distributed
from sfumato.core.config import Fraction, FractionBelowOne, PositiveInt, component
from sfumato.core.images import Images
from sfumato.core.noise import RandomStream

Logits = Float[Tensor, " B"]

LEAK = 0.8
"""Above this probability augmentations begin to show in generated images (Karras et al. 2020)."""


class DiscriminatorAugmentation(nn.Module, ABC):
    """Random changes of all images that a discriminator sees, real and generated."""

    @abstractmethod
    def forward(self, images: Images, noise: RandomStream) -> Images:
        """The changed images; differentiable in them."""

    def observe(self, real_logits: Logits) -> dict[str, Logits]:
        """Take in the discriminator's logits of real images (changed as above).

        Returns:
            Values for the log by name, one per image.
        """
        del real_logits
        return {}

    def adapt(self) -> None:
        """Called once after each step of the discriminator, in all processes."""

    def warnings(self) -> list[str]:
        """Current problems in plain words, each with a remedy."""
        return []


@component
class ADA:
    """Adaptive discriminator augmentation.

    The discriminator overfits when it is sure of all real images: then r_t = E[sign(logit)],
    over the real images of the last steps, goes to 1. Where it is above the target, p rises.

    Args:
        pipeline: the groups of changes.
        probability: p at the start; the whole time when `adaptive` is false.
        adaptive: whether p follows r_t.
        target: of r_t.
        interval: steps of the discriminator between adjustments of p.
        rise_images: images in which p would rise from 0 to 1.

    Source: Karras et al. 2020 (ADA), section 3.1.
    """

    kind: Literal["ada"] = "ada"
    pipeline: Pipeline = Pipeline()
    probability: Fraction = 0.0
    adaptive: bool = True
    target: Annotated[float, Field(gt=-1, lt=1)] = 0.6
    interval: PositiveInt = 4
    rise_images: PositiveInt = 500_000

    def __post_init__(self) -> None:
        if not self.adaptive and self.probability == 0:
            raise ValueError(
                "ada with adaptive = false and probability = 0 changes nothing; set probability, "
                "for example to 0.2, or leave augment out"
            )

    def build(self) -> "AdaptiveAugmentation":
        """The augmentation with its state."""
        return AdaptiveAugmentation(self)


class AdaptiveAugmentation(DiscriminatorAugmentation):
    """The pipeline at the current probability p. p and the sums behind it are buffers."""

    p: Float[Tensor, ""]
    signs: Float[Tensor, " 3"]

    def __init__(self, config: ADA) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("p", torch.tensor(config.probability))
        # Sum of the signs of logits, images, steps: since the last adjustment, of all processes.
        self.register_buffer("signs", torch.zeros(3))
        self._signs: list[Logits] = []

    def forward(self, images: Images, noise: RandomStream) -> Images:
        return self.config.pipeline(images, noise, float(self.p))

    @torch.no_grad()
    def observe(self, real_logits: Logits) -> dict[str, Logits]:
        """p, and the signs whose mean is r_t."""
        signs = real_logits.detach().float().sign()
        self._signs.append(signs)
        return {"ada/p": self.p.expand(len(signs)), "ada/r_t": signs}

    def warnings(self) -> list[str]:
        """Augmentation so frequent that it may leak."""
        if float(self.p) <= LEAK:
            return []
        return [
            f"ADA's p has gone above {LEAK}: the discriminator recognizes generated images "
            "however they are augmented, and augmentations may begin to show in samples; more "
            "training images, a smaller discriminator or a stronger r1 helps"
        ]

    @torch.no_grad()
    def adapt(self) -> None:
        """Every `interval` steps: move p towards less, or more, overfitting."""
        config, signs = self.config, torch.cat(self._signs)
        self._signs.clear()
        if not config.adaptive:
            return
        self.signs += distributed.all_reduce_sum(
            torch.stack([signs.sum(), signs.new_tensor(len(signs)), signs.new_tensor(0.0)])
        )
        self.signs[2] += 1
        if self.signs[2] < config.interval:
            return
        total, images, _ = self.signs
        self.p += (total / images - config.target).sign() * images / config.rise_images
        self.p.clamp_(0, 1)
        self.signs.zero_()


def vary_colour(images: Images, noise: RandomStream) -> Images:
    """Brightness, saturation and contrast, each uniformly drawn about no change.

    Opacity, the fourth channel, stays. Source: Zhao et al. 2020, appendix A.
    """
    brightness, saturation, contrast = (
        u[:, None, None, None].to(images) for u in noise.uniform(3).unbind(1)
    )
    x = images[:, :3] + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (x - middle) * (contrast + 0.5) + middle
    return torch.cat([x, images[:, 3:]], dim=1) if images.shape[1] > 3 else x


def step_aside(images: Images, noise: RandomStream, share: float) -> Images:
    """Move by whole pixels, at most `share` of each side, mid grey coming into view."""
    height, width = images.shape[2:]
    steps = []
    for pixels in (width, height):
        largest = int(pixels * share + 0.5)
        steps.append(noise.integers(2 * largest + 1) - largest)
    index, inside = [], []
    for step, pixels in zip(steps, (width, height), strict=True):
        source = torch.arange(pixels) - step[:, None]
        inside.append((source >= 0) & (source < pixels))
        index.append(source.clamp(0, pixels - 1))
    flat = index[1][:, :, None] * width + index[0][:, None, :]
    flat = flat.flatten(1)[:, None].expand(-1, images.shape[1], -1).to(images.device)
    seen = (inside[1][:, :, None] & inside[0][:, None, :])[:, None].to(images.device)
    return images.flatten(2).gather(2, flat).reshape(images.shape) * seen


def cover(images: Images, noise: RandomStream, share: float) -> Images:
    """Mid grey over a rectangle with `share` of each side, its centre anywhere in the image."""
    return cut_out(images, noise.uniform(2), share)


@component
class DiffAugment:
    """Differentiable augmentation: the same strong changes of every image, at every step.

    Args:
        colour: brightness, saturation, contrast.
        translation: largest step, as a share of each side; 0: none.
        cutout: sides of the covered rectangle, as a share of the image's; 0: none.

    Source: Zhao et al. 2020, section 4; their policy for small data is the default.
    """

    kind: Literal["diff_augment"] = "diff_augment"
    colour: bool = True
    translation: FractionBelowOne = 0.125
    cutout: FractionBelowOne = 0.5

    def __post_init__(self) -> None:
        if not (self.colour or self.translation or self.cutout):
            raise ValueError("diff_augment has every change off; leave augment out instead")

    def build(self) -> "FixedAugmentation":
        """The augmentation; it has no state."""
        return FixedAugmentation(self)


class FixedAugmentation(DiscriminatorAugmentation):
    """DiffAugment as configured."""

    def __init__(self, config: DiffAugment) -> None:
        super().__init__()
        self.config = config

    def forward(self, images: Images, noise: RandomStream) -> Images:
        config = self.config
        images = images.float()
        if config.colour:
            images = vary_colour(images, noise)
        if config.translation:
            images = step_aside(images, noise, config.translation)
        if config.cutout:
            images = cover(images, noise, config.cutout)
        return images


AnyDiscriminatorAugmentation = Annotated[ADA | DiffAugment, Field(discriminator="kind")]
