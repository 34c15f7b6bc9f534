"""Weight averages of any width, found after the run (EDM2: Karras et al. 2024, section 3.2).

A run keeps two power averages and stores them now and then. Any other power average is nearly a
linear combination of these snapshots: its profile is fitted by theirs, by least squares.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from sfumato.core import distributed
from sfumato.core.errors import RunError
from sfumato.core.tensors import check_tensors, read_tensors, write_tensors
from sfumato.runs.directory import read_experiment
from sfumato.training.ema import AveragedWeights, PowerAverage, gamma_of_relative_std
from sfumato.training.shard import whole

FOLDER = "snapshots"


class Profile(NamedTuple):
    """A power-function average: position and exponent."""

    images: int
    gamma: float


def snapshot_path(run_dir: Path, images: int, relative_std: float) -> Path:
    """The file of one snapshot."""
    return run_dir / FOLDER / f"{images:012d}-{relative_std:.4f}.safetensors"


def write_snapshots(run_dir: Path, images: int, averages: Sequence[AveragedWeights]) -> None:
    """Store the power averages at position `images`. All processes must call this."""
    for average in averages:
        if isinstance(average.profile, PowerAverage):
            path = snapshot_path(run_dir, images, average.profile.relative_std)
            tensors = whole(average.tensors)
            if distributed.is_main():
                path.parent.mkdir(exist_ok=True)
                write_tensors(path, tensors)


def reconstruct(run_dir: Path, relative_std: float, images: int | None = None) -> dict[str, Tensor]:
    """The power average of another width, for the module that is sampled (`sampled_module`).

    Args:
        run_dir: a run with `training.snapshot_images`.
        relative_std: the width, 0 to 0.2887. Best between the widths that the run kept.
        images: the position at which the average ends; None: that of the last snapshot.
    Raises:
        RunError: there are no snapshots, or none early enough.
    """
    stored = _stored(run_dir)
    last = max(profile.images for profile, _ in stored)
    images = last if images is None else images
    usable = [(profile, path) for profile, path in stored if profile.images <= images]
    if not usable or images > last:
        raise RunError(
            f"there are no snapshots of {run_dir} that reach {images} images; "
            f"they are at {sorted({profile.images for profile, _ in stored})}"
        )
    target = Profile(images, gamma_of_relative_std(relative_std))
    weights = coefficients([profile for profile, _ in usable], target)
    newest = read_tensors(usable[-1][1])
    total = {n: torch.zeros_like(t, dtype=torch.float64) for n, t in newest.items()}
    for weight, (_, path) in zip(weights.tolist(), usable, strict=True):
        tensors = read_tensors(path)
        check_tensors(newest, tensors, str(path))
        for name, tensor in tensors.items():
            total[name] += weight * tensor
    return {
        name: total[name].to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in newest.items()  # counters are those of the newest
    }


def _stored(run_dir: Path) -> list[tuple[Profile, Path]]:
    widths = [
        average.relative_std
        for average in read_experiment(run_dir).training.averages
        if isinstance(average, PowerAverage)
    ]
    found = []
    for width in widths:
        for path in sorted((run_dir / FOLDER).glob(f"*-{width:.4f}.safetensors")):
            position = path.name.partition("-")[0]
            if position.isdecimal():
                found.append((Profile(int(position), gamma_of_relative_std(width)), path))
    if not found:
        raise RunError(
            f"{run_dir} has no snapshots to reconstruct an average from; train with "
            "training.snapshot_images and two power averages"
        )
    return found


def inner_product(a: Profile, b: Profile) -> float:
    """The integral of two profiles, each (gamma + 1) s^gamma / t^(gamma + 1) on [0, t].

    Source: Karras et al. 2024 (EDM2), appendix C.
    """
    early, late = (a, b) if a.images <= b.images else (b, a)
    factor = (a.gamma + 1) * (b.gamma + 1) / (a.gamma + b.gamma + 1)
    return float(factor * (early.images / late.images) ** late.gamma / late.images)


def coefficients(stored: Sequence[Profile], target: Profile) -> Float64[np.ndarray, " n"]:
    """The combination of the stored profiles that is nearest to the target in least squares."""
    scale = [profile.images**0.5 for profile in stored]  # unit size: equations of one magnitude
    gram = np.array(
        [
            [inner_product(a, b) * s * t for b, t in zip(stored, scale, strict=True)]
            for a, s in zip(stored, scale, strict=True)
        ]
    )
    right = np.array([inner_product(a, target) * s for a, s in zip(stored, scale, strict=True)])
    solution = np.linalg.lstsq(gram, right, rcond=1e-12)[0]
    found: Float64[np.ndarray, " n"] = solution * np.array(scale)
    return found
