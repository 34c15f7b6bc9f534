"""Walks and grids between the noises of several seeds, in z or in StyleGAN2's w; truncation."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.errors import RunError
from sfumato.core.generative_model import GenerativeModel
from sfumato.core.images import Images
from sfumato.core.noise import Draw, Noise, RandomStream
from sfumato.diffusion import edit
from sfumato.gan.gan_model import GAN
from sfumato.networks.stylegan2 import StyleGAN2Generator

InterpolationPath = Literal["linear", "spherical"]
Space = Literal["z", "w"]


def blend(
    ends: Sequence[Float[Tensor, "..."]], num: int, path: InterpolationPath
) -> Float[Tensor, "N ..."]:
    """`num` points from one end to the other, or num x num between four corners, row by row.

    Raises:
        ConfigError: fewer than 2 points.
    """
    if len(ends) == 2:
        return edit.interpolate(ends[0], ends[1], num, path)
    top_left, top_right, bottom_left, bottom_right = ends
    left = edit.interpolate(top_left, bottom_left, num, path)
    right = edit.interpolate(top_right, bottom_right, num, path)
    rows = [edit.interpolate(a, b, num, path) for a, b in zip(left, right, strict=True)]
    return torch.cat(rows)


class BlendedNoise(RandomStream):
    """The streams of the images between those of two seeds, or of four.

    Every normal draw is blended, so that ends and corners are the very samples of their seeds, with
    stochastic samplers too. Anything else that is drawn is that of the first seed.
    """

    def __init__(self, seeds: Sequence[int], num: int, path: InterpolationPath) -> None:
        assert len(seeds) in (2, 4), f"a walk has 2 ends and a grid 4 corners, got {len(seeds)}"
        self._ends = [Noise([seed]) for seed in seeds]
        self._num = num
        self._path: InterpolationPath = path

    def __len__(self) -> int:
        return self._num if len(self._ends) == 2 else self._num**2

    def normal(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Draws blended between those of the seeds."""
        ends = [end.normal(*shape)[0] for end in self._ends]
        return blend(ends, self._num, self._path)

    def _draw(self, draw: Draw, shape: tuple[int, ...]) -> Tensor:
        return self._ends[0]._draw(draw, shape).expand(len(self), *[-1] * len(shape))


def interpolate_noises(
    model: GenerativeModel,
    seeds: Sequence[int],
    num: int,
    path: InterpolationPath = "spherical",
    label: int | None = None,
    space: Space = "z",
) -> Images:
    """Samples between the noises of two seeds, or of four; ends and corners are their samples.

    Args:
        model: any; of a GAN the latent vector is blended.
        seeds: of the two ends, or of the corners: top left, top right, bottom left, bottom right.
        num: images, both ends included; along either side of a grid.
        path: spherical keeps the norm that noise has; in w, which has no norm to keep, linear is
            usual.
        label: the class of all; None for an unconditional model.
        space: z, or for StyleGAN2 w, where z is mapped to first.
    Raises:
        ConfigError: fewer than 2 images.
        RunError: w of a model that has none.
    """
    noise = BlendedNoise(seeds, num, path)
    if space == "z":
        labels = None if label is None else torch.full((len(noise),), label)
        return model.sample(labels, noise)
    generator, device = styled(model), next(styled(model).parameters()).device
    with torch.no_grad():
        ends = torch.cat([Noise([seed]).normal(generator.latent_dim) for seed in seeds]).to(device)
        labels = None if label is None else torch.full((len(seeds),), label, device=device)
        w = blend(list(generator.map(ends, labels)), num, path)
        noise.normal(generator.latent_dim)  # what sampling draws first
        return _drawn(generator, generator.truncated(w), noise)


def truncation_sweep(
    model: GenerativeModel, seeds: Sequence[int], shares: Sequence[float], label: int | None = None
) -> list[Images]:
    """The samples of some seeds for each share of the distance to the mean w.

    A share of 1 is the sample as learned, 0 the mean image of all seeds.
    Raises:
        RunError: a model without w.
    """
    generator, device = styled(model), next(styled(model).parameters()).device
    found = []
    with torch.no_grad():
        for share in shares:
            noise = Noise(seeds)
            z = noise.normal(generator.latent_dim).to(device)
            labels = None if label is None else torch.full((len(seeds),), label, device=device)
            w = torch.lerp(generator.average_w, generator.map(z, labels), share)
            styles = w[:, None].expand(-1, generator.num_layers, -1)
            found.append(_drawn(generator, styles, noise))
    return found


def styled(model: GenerativeModel) -> StyleGAN2Generator:
    """The generator of a StyleGAN2.

    Raises:
        RunError: the model is of another kind.
    """
    if isinstance(model, GAN) and isinstance(model.generator, StyleGAN2Generator):
        return model.generator
    kind = model.config.network.kind if isinstance(model, GAN) else "diffusion"
    raise RunError(f"w is StyleGAN2's, and this model is of kind {kind!r}; use --space z")


def _drawn(
    generator: StyleGAN2Generator, styles: Float[Tensor, "B L S"], noise: RandomStream
) -> Images:
    used = noise if generator.config.random_noise else None
    return generator.draw(styles, used).clamp(-1, 1)
