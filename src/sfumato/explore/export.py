"""Samples to files: PNG folders, npz, grids, animations."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.core.console import progress_bar
from sfumato.core.errors import RunError
from sfumato.core.files import atomic_path
from sfumato.core.images import Labels, UInt8Images, to_uint8
from sfumato.core.pictures import image_grid, save_animation
from sfumato.data.export import file_name
from sfumato.experiment.load import LoadedRun, load_run
from sfumato.explore.guide import Guide
from sfumato.speed.sampling import balanced_labels, class_numbers, sample_batches, sample_images

COLUMNS = 8
ANIMATED = 64
MAX_FRAMES = 60


def write_samples(
    run_dir: Path,
    overrides: list[str],
    *,
    number: int,
    first_seed: int,
    classes: list[str] | None,
    batch_size: int | None,
    output: Path,
    grid: Path | None,
    animation: Path | None,
    guide: Guide | None = None,
) -> list[Path]:
    """Sample `number` images, under a guide if there is one, and write them; returns the paths.

    Raises:
        RunError: no finished run, no such class, a number below 1, or an output that exists.
    """
    if number < 1 or (batch_size is not None and batch_size < 1):
        raise RunError(f"--number and --batch-size must be at least 1, got {number}, {batch_size}")
    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise RunError(f"{output} already exists; choose another with --output")
    loaded = load_run(run_dir, overrides)
    if guide is not None:
        loaded = guide.apply(loaded)
    labels = labels_for(loaded, number, classes)
    seeds = range(first_seed, first_seed + number)
    with progress_bar("sampling", number) as show:
        images = sample_images(
            loaded.model, labels, seeds, batch_size, loaded.plan, on_progress=show
        )
    written = [_write_images(images, labels, seeds, loaded, output)]
    if grid is not None:
        with atomic_path(grid) as path:
            _picture(images).save(path, "PNG")
        written.append(grid)
    if animation is not None:
        some = None if labels is None else labels[:ANIMATED]
        _write_animation(loaded, some, seeds[:ANIMATED], animation)
        written.append(animation)
    return written


def labels_for(loaded: LoadedRun, number: int, classes: list[str] | None) -> Labels | None:
    """The labels of `number` images of the named classes (None: all in turn).

    Returns:
        None for an unconditional run.
    Raises:
        RunError: no such class, or classes of an unconditional run.
    """
    names = loaded.data["class_names"]
    num_classes = loaded.data["num_classes"] if loaded.experiment.conditional else 0
    if num_classes == 0:
        if classes:
            raise RunError(f"run {loaded.directory} is unconditional; leave --classes out")
        return None
    chosen = class_numbers(classes, names) if classes else list(range(num_classes))
    return balanced_labels(number, chosen)


def _write_images(
    images: UInt8Images, labels: Labels | None, seeds: range, loaded: LoadedRun, output: Path
) -> Path:
    array = images.numpy().transpose(0, 2, 3, 1)  # files are N, H, W, C
    if output.suffix == ".npz":
        arrays: dict[str, Any] = {"x": array, "seeds": np.array(seeds)}
        if labels is not None:
            arrays["y"] = labels.numpy()
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(output) as path, path.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return output
    for position, seed in enumerate(seeds):
        folder = output
        if labels is not None:
            folder = output / file_name(str(loaded.data["class_names"][int(labels[position])]))
        folder.mkdir(parents=True, exist_ok=True)
        image = array[position]
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture.save(folder / f"{seed:06d}.png")
    return output


def _picture(images: UInt8Images) -> Image.Image:
    return image_grid(images.numpy(), COLUMNS)


def _write_animation(loaded: LoadedRun, labels: Labels | None, seeds: range, path: Path) -> None:
    """How images emerge: x_t on the left, the predicted x_0 on the right."""
    frames: list[Image.Image] = []

    def keep(step: int, x_t: Tensor, x_0: Tensor) -> None:
        both = torch.cat([_normalized(x_t), x_0], dim=3)
        frames.append(_picture(to_uint8(both).cpu()))

    for _ in sample_batches(loaded.model, labels, seeds, ANIMATED, loaded.plan, on_step=keep):
        pass
    stride = -(-len(frames) // MAX_FRAMES)
    chosen = frames[::-1][::stride][::-1]  # the last one is always shown
    save_animation(chosen, path, fps=12)


def _normalized(x_t: Tensor) -> Tensor:
    """Noise shown within the range of images, whatever the scale of the schedule."""
    return x_t / x_t.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)
