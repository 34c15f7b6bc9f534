"""Real images and a trained diffusion model: reconstruct, inpaint, vary, watch it denoise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sfumato.core.errors import RunError
from sfumato.core.images import Batch, Images, Labels, Shape, from_uint8
from sfumato.core.noise import Noise
from sfumato.data.catalogue import load
from sfumato.data.dataset import Dataset
from sfumato.diffusion import editing
from sfumato.diffusion.denoiser import ClipToRange, clipped
from sfumato.diffusion.diffusion_model import DiffusionModel
from sfumato.diffusion.editing import NoiseEstimate, Snapshot
from sfumato.diffusion.grid import SIGMA_MAX, KarrasGrid, UniformGrid
from sfumato.diffusion.noise_schedule import NoiseSchedule, TimeGrid
from sfumato.experiment.experiment import build_model
from sfumato.experiment.load import LoadedRun

Mask = Float[Tensor, "1 1 H W"]
"""1 where a pixel is known, 0 where it is to be found."""


def box_mask(image_shape: Shape, box: Sequence[int]) -> Mask:
    """A mask that leaves a box to be found.

    Args:
        box: top, left, height, width in pixels.
    Raises:
        RunError: it does not lie within the image, or is all of it.
    """
    _, height, width = image_shape
    inside = len(box) == 4 and min(box[:2]) >= 0 and min(box[2:]) >= 1
    if not inside or box[0] + box[2] > height or box[1] + box[3] > width:
        raise RunError(
            f"the box {list(box)} does not lie within an image of {height} x {width} pixels; give "
            "TOP,LEFT,HEIGHT,WIDTH"
        )
    mask = torch.ones(1, 1, height, width)
    mask[..., box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = 0
    return _sensible(mask, f"box {list(box)}")


def file_mask(image_shape: Shape, path: Path) -> Mask:
    """A mask from a picture of the size of the images: white is to be found, black is kept.

    Raises:
        RunError: no picture, another size, or nothing to keep or to find.
    """
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
    except (OSError, UnidentifiedImageError) as error:
        raise RunError(f"cannot read the mask {path}: {error}") from None
    if pixels.shape != image_shape[1:]:
        raise RunError(
            f"the mask {path} has {pixels.shape[0]} x {pixels.shape[1]} pixels and the images "
            f"{image_shape[1]} x {image_shape[2]}; scale it to that size"
        )
    known = torch.from_numpy(pixels < 128).float()
    return _sensible(known[None, None], f"mask {path}")


def _sensible(mask: Mask, name: str) -> Mask:
    if mask.all() or not mask.any():
        verb = "find" if mask.all() else "keep"
        raise RunError(f"the {name} leaves nothing to {verb}; white is found, black is kept")
    return mask


def inpaint(
    model: DiffusionModel,
    batch: Batch,
    known: Mask,
    *,
    steps: int,
    resamplings: int,
    jump: int,
    seed: int = 0,
) -> Images:
    """Keeps the known pixels exactly and finds the others (RePaint).

    Args:
        batch: real images; their labels, if any, condition what is found.
        known: 1 where pixels are kept.
        steps, resamplings, jump: see `editing.repaint`; steps times resamplings is about the NFE.
        seed: of the first image's noise; another seed gives another picture.
    Raises:
        ConfigError: a jump that is not shorter than the steps.
    Source: Lugmayr et al. 2022.
    """
    denoiser = clipped(model.guided, ClipToRange())
    schedule = model.config.schedule
    # Equal steps of sigma would leave the noise levels of the data to the very last of them.
    exploding = schedule.scaling == "exploding"
    grid = KarrasGrid() if exploding else UniformGrid(sigma_max=SIGMA_MAX)
    times = grid(schedule, steps)
    mask = known.to(batch.images).expand(len(batch), -1, -1, -1)
    noise = Noise(range(seed, seed + len(batch)))
    found = editing.repaint(
        denoiser, batch.images, mask, batch.labels, noise, times, resamplings, jump
    )
    return found.clamp(-1, 1)


def image_to_image(model: DiffusionModel, batch: Batch, start: float, seed: int = 0) -> Images:
    """Noises images to the time `start` and samples from there with the model's sampler (SDEdit).

    Raises:
        RunError: `start` is not in (0, 1].
        ConfigError: the sampler's grid has no time so early.
    Source: Meng et al. 2022.
    """
    if not 0 < start <= 1:
        raise RunError(f"the start {start} is not in (0, 1]; a later start leaves more freedom")
    noise = Noise(range(seed, seed + len(batch)))
    sampler = model.config.sampler
    found = editing.sdedit(model.guided, sampler, batch.images, start, batch.labels, noise)
    return found.clamp(-1, 1)


def strip(
    model: DiffusionModel, labels: Labels | None, seeds: range, times: Sequence[float]
) -> list[Snapshot]:
    """x_t and the predicted x_0 of samples at the visited times nearest to `times`.

    Args:
        labels: classes, one per seed; None is unconditional.
        seeds: of the samples, those that `sfumato sample` draws.
        times: in [0, 1]; one snapshot each.
    """
    noise = Noise(seeds)
    x_1, labels = model.start(labels, noise)
    return editing.reverse_strip(model.guided, model.config.sampler, x_1, labels, noise, times)


def noise_before_and_after(
    loaded: LoadedRun, batch: Batch, times: Sequence[float], seed: int = 0
) -> tuple[list[NoiseEstimate], list[NoiseEstimate]]:
    """Predicted beside true noise at chosen times: at initialization, and after training.

    The initialization is the run's own, rebuilt from its seed.

    Args:
        loaded: a run of a diffusion model.
        batch: real images.
        times: in (0, 1].
        seed: of the first image's noise, which is the same at all times.
    Raises:
        RunError: a time outside (0, 1].
        ConfigError: a time at which the schedule has no noise level.
    """
    trained = diffusion_of(loaded, "noise")
    for t in times:
        if not 0 < t <= 1:
            raise RunError(f"time {t} is not in (0, 1]: there is no noise to predict at 0")
    untrained = build_model(loaded.experiment, load(loaded.experiment.data).train)
    untrained.to(batch.images.device).eval()
    assert isinstance(untrained, DiffusionModel), "of the same kind as the trained model"
    at = [torch.tensor(t, dtype=torch.float64) for t in times]
    seeds = range(seed, seed + len(batch))
    before, after = (
        editing.noise_estimates(model.denoiser, batch.images, batch.labels, Noise(seeds), at)
        for model in (untrained, trained)
    )
    return before, after


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


def reconstruct_images(model: DiffusionModel, batch: Batch, steps: int) -> Reconstruction:
    """Images to noise and back along the probability flow, by Heun's method.

    Args:
        batch: real images; their labels are given to the flow, without guidance.
        steps: of each direction. NFE: 4 per step.
    Source: Song et al. 2021 (DDIM), section 5.4.
    """
    schedule = model.config.schedule
    times = flow_grid(schedule, steps)
    streams = Noise(range(len(batch)))
    x_1 = editing.invert(model.denoiser, batch.images, batch.labels, streams, times)
    again = editing.generate_by_flow(model.denoiser, x_1, batch.labels, streams, times)
    noise = x_1 / schedule.start_std(times[0])
    error = (again - batch.images).flatten(1).square().mean(1).sqrt()
    return Reconstruction(batch.images, noise, again, error, noise.flatten(1).std(1))
