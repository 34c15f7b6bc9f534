"""Walks between images or between the noises of seeds (in z or StyleGAN2's w); truncation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.errors import ConfigError, RunError
from sfumato.core.generative_model import GenerativeModel
from sfumato.core.images import Batch, Images
from sfumato.core.noise import Draw, Noise, RandomStream
from sfumato.data.dataset import Dataset
from sfumato.diffusion.diffusion_model import DiffusionModel
from sfumato.diffusion.editing import generate_by_flow, invert
from sfumato.experiment.load import LoadedRun
from sfumato.explore.real_images import diffusion_of, flow_grid, real_batch
from sfumato.gan.gan_model import GAN
from sfumato.networks.stylegan2 import StyleGAN2Generator

InterpolationPath = Literal["linear", "spherical"]
Space = Literal["z", "w"]


@dataclass(frozen=True)
class Walk:
    """How a walk goes from one end to the other.

    Args:
        points: images, both ends included; along either side of a grid.
        path: spherical keeps the norm of noise. In w, which has no norm to keep, linear is usual.
        space: z, or for StyleGAN2 w, where z is mapped to first. Images ignore it.
    """

    points: int
    path: InterpolationPath = "spherical"
    space: Space = "z"


def interpolate(
    a: Float[Tensor, "..."],
    b: Float[Tensor, "..."],
    num: int,
    path: InterpolationPath = "spherical",
) -> Float[Tensor, "num ..."]:
    """`num` points from a to b, both included.

    The linear path is for images. Between two noises it would pass through points of too small a
    norm. The spherical one keeps it (Shoemake 1985; White 2016).

    Raises:
        ConfigError: fewer than 2 points are asked for.
    """
    if num < 2:
        raise ConfigError(f"interpolation needs at least 2 points, got {num}")
    share = torch.linspace(0, 1, num, dtype=torch.float64).view(-1, *[1] * a.ndim).to(a)
    if path == "linear":
        return a + share * (b - a)
    cosine = (a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1).item()
    angle = math.acos(cosine)
    if math.sin(angle) < 1e-4:  # (almost) parallel: the two paths are the same
        return a + share * (b - a)
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / math.sin(angle)


def blend(
    ends: Sequence[Float[Tensor, "..."]], num: int, path: InterpolationPath
) -> Float[Tensor, "N ..."]:
    """`num` points from one end to the other, or num x num between four corners, row by row.

    Raises:
        ConfigError: fewer than 2 points.
    """
    if len(ends) == 2:
        return interpolate(ends[0], ends[1], num, path)
    top_left, top_right, bottom_left, bottom_right = ends
    left = interpolate(top_left, bottom_left, num, path)
    right = interpolate(top_right, bottom_right, num, path)
    rows = [interpolate(a, b, num, path) for a, b in zip(left, right, strict=True)]
    return torch.cat(rows)


class BlendedNoise(RandomStream):
    """The streams of the images between those of two seeds, or of four.

    Every normal draw is blended, so that ends and corners equal the samples of their seeds, with
    stochastic samplers too. Any other draw is that of the first seed.
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
    model: GenerativeModel, seeds: Sequence[int], walk: Walk, label: int | None = None
) -> Images:
    """Samples between the noises of two seeds, or of four; ends and corners are their samples.

    Args:
        model: any. For a GAN the latent vector is blended.
        seeds: of the two ends, or of the corners: top left, top right, bottom left, bottom right.
        walk: its points and path.
        label: the class of all images; None for an unconditional model.
    Raises:
        ConfigError: fewer than 2 images.
        RunError: w of a model that has none.
    """
    noise = BlendedNoise(seeds, walk.points, walk.path)
    if walk.space == "z":
        labels = None if label is None else torch.full((len(noise),), label)
        return model.sample(labels, noise)
    generator = styled(model)
    w = blend(list(_mapped(generator, seeds, label)), walk.points, walk.path)
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
    generator = styled(model)
    own = _mapped(generator, seeds, label)
    found = []
    for share in shares:
        noise = Noise(seeds)
        noise.normal(generator.latent_dim)  # what sampling draws first
        w = torch.lerp(generator.average_w, own, share)
        found.append(_drawn(generator, w[:, None].expand(-1, generator.num_layers, -1), noise))
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


@torch.no_grad()
def _mapped(
    generator: StyleGAN2Generator, seeds: Sequence[int], label: int | None
) -> Float[Tensor, "B D"]:
    """The w of the samples of some seeds."""
    device = next(generator.parameters()).device
    z = Noise(seeds).normal(generator.latent_dim).to(device)
    labels = None if label is None else torch.full((len(seeds),), label, device=device)
    return generator.map(z, labels)


@torch.no_grad()
def _drawn(
    generator: StyleGAN2Generator, styles: Float[Tensor, "B L S"], noise: RandomStream
) -> Images:
    used = noise if generator.config.random_noise else None
    return generator.draw(styles, used).clamp(-1, 1)


def interpolate_images(model: DiffusionModel, pair: Batch, walk: Walk, steps: int) -> Images:
    """The path between two real images through the noises that the flow traces them back to.

    The ends are the reconstructions of the two.

    Args:
        pair: two images. If their labels differ the flow is followed without labels.
        walk: its points and path.
        steps: of each way along the flow.
    Raises:
        RunError: labels that differ, in a model that never saw unlabelled images.
        ConfigError: fewer than 2 images.
    """
    labels = pair.labels
    if labels is not None and labels[0] != labels[1]:
        if model.config.label_dropout == 0:
            raise RunError(
                f"the two images are of classes {labels.tolist()}, and the model was trained with "
                "label_dropout = 0: it knows no images without a class; choose two of one class"
            )
        labels = None
    times = flow_grid(model.config.schedule, steps)
    x_1 = invert(model.denoiser, pair.images, labels, Noise([0, 1]), times)
    between = interpolate(x_1[0], x_1[1], walk.points, walk.path)
    repeated = None if labels is None else labels[:1].expand(len(between))
    noise = Noise(range(len(between)))
    found = generate_by_flow(model.denoiser, between, repeated, noise, times)
    return found.clamp(-1, 1)


class Smoothness(NamedTuple):
    """How evenly a path of images moves through a feature space."""

    mean_step: float
    """Mean distance of neighbours: the smaller, the smoother (for equal ends and `num`)."""
    detour: float
    """Length of the path over the distance of its ends; 1 is straight."""


def smoothness(features: Float[Tensor, "num d"]) -> Smoothness:
    """How evenly the features of the images along a path move, in order."""
    steps = features.diff(dim=0).norm(dim=1)
    straight = (features[-1] - features[0]).norm().item()
    length = steps.sum().item()
    return Smoothness(steps.mean().item(), length / straight if straight > 0 else math.inf)


def walks_between_noises(
    model: GenerativeModel, number: int, walk: Walk, seed: int = 0
) -> list[Images]:
    """`number` walks between the noises of consecutive seeds, each of one class if there are any.

    Raises:
        ConfigError: fewer than 2 points.
        RunError: w of a model that has none.
    """
    classes = model.num_classes
    return [
        interpolate_noises(model, (first, first + 1), walk, k % classes if classes else None)
        for k, first in enumerate(range(seed, seed + 2 * number, 2))
    ]


def grid_between_noises(model: GenerativeModel, walk: Walk, seed: int = 0) -> list[Images]:
    """The rows of a grid between the noises of four consecutive seeds, at its corners.

    All images are of the first class, if there are classes.
    Raises:
        ConfigError: fewer than 2 points.
        RunError: w of a model that has none.
    """
    label = 0 if model.num_classes else None
    images = interpolate_noises(model, range(seed, seed + 4), walk, label)
    return list(torch.split(images, walk.points))


def walks_between_images(
    loaded: LoadedRun,
    dataset: Dataset,
    chosen: Sequence[int] | None,
    number: int,
    walk: Walk,
    steps: int,
) -> list[Images]:
    """Walks between pairs of images.

    Args:
        chosen: positions, two per walk; None is two of one class for each of `number` walks.
    Raises:
        RunError: no diffusion model, an odd number of positions, or one that does not exist.
    """
    model = diffusion_of(loaded, "interpolation between images")
    if chosen is None:
        chosen = _pairs(dataset, number)
    if len(chosen) % 2:
        raise RunError(f"a walk needs two images, and --images names {len(chosen)}; add one")
    return [
        interpolate_images(model, real_batch(model, dataset, chosen[k : k + 2]), walk, steps)
        for k in range(0, len(chosen), 2)
    ]


def _pairs(dataset: Dataset, number: int) -> list[int]:
    """The first two images of each class in turn."""
    if dataset.labels is None:
        return list(range(2 * number))
    found: list[int] = []
    for k in range(number):
        rows = np.flatnonzero(dataset.labels == k % dataset.num_classes)
        first = 2 * (k // dataset.num_classes)
        found += rows[first : first + 2].tolist()
    return found
