"""The way between images and noise of a trained run: reconstruction and interpolation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.errors import RunError
from sfumato.core.images import Batch, Images, from_uint8, to_uint8
from sfumato.core.noise import Noise
from sfumato.data.dataset import Dataset
from sfumato.diffusion import edit
from sfumato.diffusion.broadcast import TimeGrid
from sfumato.diffusion.diffusion_model import DiffusionModel
from sfumato.diffusion.edit import Smoothness
from sfumato.diffusion.grid import KarrasGrid
from sfumato.diffusion.schedule import NoiseSchedule
from sfumato.experiment.load import LoadedRun
from sfumato.explore.interpolation import InterpolationPath, Space, interpolate_noises
from sfumato.metrics.features import FeatureNetwork


def diffusion_of(loaded: LoadedRun, task: str) -> DiffusionModel:
    """The diffusion model of a run.

    Raises:
        RunError: it is of another kind, which cannot do the task.
    """
    if not isinstance(loaded.model, DiffusionModel):
        raise RunError(
            f"{task} needs a diffusion model, and {loaded.directory} is of kind "
            f"{loaded.experiment.model.kind!r}"
        )
    return loaded.model


def real_batch(model: DiffusionModel, dataset: Dataset, chosen: Sequence[int]) -> Batch:
    """Images of a data set for a model, with their labels if it is conditional.

    Raises:
        RunError: a position that the data set does not have.
    """
    for position in chosen:
        if not 0 <= position < len(dataset):
            raise RunError(
                f"there is no image {position}: the {dataset.split} images of {dataset.name} are "
                f"0 to {len(dataset) - 1}"
            )
    device = next(model.parameters()).device
    rows = np.array(chosen, dtype=np.int64)
    images = from_uint8(dataset.take(rows)).to(device)
    if not model.num_classes or dataset.labels is None:
        return Batch(images)
    return Batch(images, torch.from_numpy(dataset.labels[rows]).to(device))


def flow_grid(schedule: NoiseSchedule, steps: int) -> TimeGrid:
    """The times at which the probability flow is followed up and down.

    Karras steps: there and back in 40 of them, digits differ by 0.0006 (in equal steps of time
    by 0.06).
    """
    return KarrasGrid()(schedule, steps)


@dataclass(frozen=True)
class Reconstruction:
    """Images, the noise that the flow traces them back to, and the images it makes of that.

    Args:
        noise: in units of the standard deviation that sampling starts with.
        rms_error: of each image, in the units of [-1, 1].
        noise_std: of each image's noise; 1 for images that the model finds likely.
    """

    images: Images
    noise: Images
    again: Images
    rms_error: Float[Tensor, " B"]
    noise_std: Float[Tensor, " B"]


def reconstruct(model: DiffusionModel, batch: Batch, steps: int) -> Reconstruction:
    """Images to noise and back along the probability flow, by Heun's method.

    Args:
        batch: real images; their labels are given to the flow, without guidance.
        steps: of each way. NFE: 4 a step.
    Source: Song et al. 2021 (DDIM), section 5.4.
    """
    schedule = model.config.schedule
    times = flow_grid(schedule, steps)
    streams = Noise(range(len(batch)))
    x_1 = edit.invert(model.denoiser, batch.images, batch.labels, streams, times)
    again = edit.reconstruct(model.denoiser, x_1, batch.labels, streams, times)
    noise = x_1 / schedule.start_std(times[0])
    error = (again - batch.images).flatten(1).square().mean(1).sqrt()
    return Reconstruction(batch.images, noise, again, error, noise.flatten(1).std(1))


def interpolate_images(
    model: DiffusionModel,
    pair: Batch,
    num: int,
    steps: int,
    path: InterpolationPath = "spherical",
) -> Images:
    """The path between two real images through the noises that the flow traces them back to.

    The ends are the reconstructions of the two.

    Args:
        pair: two images. If their labels differ the flow is followed without labels.
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
    x_1 = edit.invert(model.denoiser, pair.images, labels, Noise([0, 1]), times)
    between = edit.interpolate(x_1[0], x_1[1], num, path)
    repeated = None if labels is None else labels[:1].expand(num)
    found = edit.reconstruct(model.denoiser, between, repeated, Noise(range(num)), times)
    return found.clamp(-1, 1)


def smoothness_of(images: Images, features: FeatureNetwork) -> Smoothness:
    """How evenly a path of images moves through the feature space of a protocol."""
    return edit.smoothness(features(to_uint8(images).cpu()))


def walks_between_noises(
    loaded: LoadedRun,
    number: int,
    points: int,
    path: InterpolationPath,
    seed: int = 0,
    space: Space = "z",
) -> list[Images]:
    """`number` walks between the noises of consecutive seeds, one class each where there are any.

    Raises:
        ConfigError: fewer than 2 points.
        RunError: w of a model that has none.
    """
    model = loaded.model
    classes = model.num_classes
    return [
        interpolate_noises(
            model,
            (seed + 2 * k, seed + 2 * k + 1),
            points,
            path,
            k % classes if classes else None,
            space,
        )
        for k in range(number)
    ]


def grid_between_noises(
    loaded: LoadedRun,
    points: int,
    path: InterpolationPath,
    seed: int = 0,
    space: Space = "z",
    label: int | None = None,
) -> list[Images]:
    """The rows of a grid between the noises of four consecutive seeds, at its corners.

    Args:
        label: the class of all; None: the first, where there are any.
    Raises:
        ConfigError: fewer than 2 points.
        RunError: w of a model that has none.
    """
    model = loaded.model
    if label is None and model.num_classes:
        label = 0
    corners = range(seed, seed + 4)
    images = interpolate_noises(model, corners, points, path, label, space)
    return list(torch.split(images, points))


def walks_between_images(
    loaded: LoadedRun,
    dataset: Dataset,
    chosen: Sequence[int] | None,
    number: int,
    points: int,
    path: InterpolationPath,
    steps: int,
) -> list[Images]:
    """Walks between pairs of images.

    Args:
        chosen: positions, two a walk; None: two of one class for each of `number` walks.
    Raises:
        RunError: no diffusion model, an odd number of positions, or one that does not exist.
    """
    model = diffusion_of(loaded, "interpolation between images")
    if chosen is None:
        chosen = _pairs(dataset, number)
    if len(chosen) % 2:
        raise RunError(f"a walk needs two images, and --images names {len(chosen)}; add one")
    return [
        interpolate_images(
            model, real_batch(model, dataset, chosen[k : k + 2]), points, steps, path
        )
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
