"""Moving averages of weights: what samples are drawn with, and averages of other widths.

A run may keep two power averages and store them now and then. Any other power average is nearly a
linear combination of these snapshots: its profile is fitted by theirs, by least squares.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import Field
from torch import Tensor, nn

from sfumato.core import distributed
from sfumato.core.config import PositiveFloat, component
from sfumato.core.distributed import gathered, sharded_like
from sfumato.core.errors import RunError
from sfumato.core.tensors import check_tensors, read_tensors, write_tensors
from sfumato.runs.directory import read_json


@component
class ExponentialAverage:
    """An average that forgets half of the past in `half_life_images`.

    Early in a run the half-life is at most `rampup` times the images seen, so that untrained
    weights do not dominate the average (Karras et al. 2022, EDM).
    """

    kind: Literal["exponential"] = "exponential"
    half_life_images: PositiveFloat = 500_000
    rampup: PositiveFloat = 0.05

    def weight(self, images: int, batch: int) -> float:
        """The weight of the newest parameters, when `batch` images end at position `images`."""
        return float(1 - 0.5 ** (batch / self.half_life(images)))

    def half_life(self, images: int) -> float:
        """Images within which half of the past is forgotten, at position `images`."""
        return min(self.half_life_images, self.rampup * images)


@component
class PowerAverage:
    """The power-function average of EDM2 (Karras et al. 2024, section 3.1).

    The weight of a parameter at position s in a run of length t is proportional to s^gamma; the
    profile's relative width is `relative_std`. Snapshots of two widths allow any other width to
    be reconstructed after the run (`reconstruct`).
    """

    kind: Literal["power"] = "power"
    relative_std: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.relative_std < 12**-0.5:
            raise ValueError(
                "power needs 0 < relative_std < 0.2887 (= 12^-1/2, the uniform average), "
                f"got relative_std={self.relative_std}"
            )

    @property
    def gamma(self) -> float:
        """The exponent: the real root above 0 of relative_std^2 (g+2)^2 (g+3) = g+1."""
        return gamma_of_relative_std(self.relative_std)

    def weight(self, images: int, batch: int) -> float:
        """The weight of the newest parameters, when `batch` images end at position `images`."""
        return float(1 - (1 - min(batch / images, 1.0)) ** (self.gamma + 1))


AverageProfile = Annotated[ExponentialAverage | PowerAverage, Field(discriminator="kind")]


def gamma_of_relative_std(relative_std: float) -> float:
    """The exponent gamma of a power-function profile (Karras et al. 2024, algorithm 2)."""
    low, high = 0.0, 1e6
    for _ in range(200):  # the relative width falls as gamma grows
        middle = (low + high) / 2
        width = ((middle + 1) / ((middle + 2) ** 2 * (middle + 3))) ** 0.5
        low, high = (middle, high) if width > relative_std else (low, middle)
    return (low + high) / 2


class AveragedWeights:
    """The running average of a module's parameters and floating-point buffers."""

    def __init__(self, module: nn.Module, profile: ExponentialAverage | PowerAverage) -> None:
        self.profile = profile
        self._live = dict(module.state_dict(keep_vars=True))
        self.tensors = {name: t.detach().clone() for name, t in self._live.items()}
        floating = [n for n, t in self._live.items() if t.is_floating_point()]
        # Parameters may be sharded, buffers never are: one operation for each sort.
        sharded = [name for name in floating if hasattr(self._live[name], "full_tensor")]
        whole = [name for name in floating if name not in set(sharded)]
        self._averaged = [
            ([self.tensors[name] for name in sort], [self._live[name] for name in sort])
            for sort in (sharded, whole)
            if sort
        ]
        self._counters = [name for name in self._live if name not in set(floating)]

    @torch.no_grad()
    def update(self, images: int, batch: int) -> None:
        """Average in the parameters after `batch` more images, at position `images`."""
        weight = self.profile.weight(images, batch)
        for averages, sources in self._averaged:
            torch._foreach_lerp_(averages, [source.detach() for source in sources], weight)
        for name in self._counters:
            self.tensors[name].copy_(self._live[name])

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], source: str) -> None:
        """Continue from saved averages.

        Raises:
            RunError: the names or shapes are not those of the module.
        """
        check_tensors(self.tensors, tensors, source)
        for name, tensor in self.tensors.items():
            tensor.copy_(sharded_like(tensors[name], tensor))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A context in which the module holds the averages in place of its own weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, average in self.tensors.items():
            live = self._live[name]
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)


def weights_in_use(averages: list[AveragedWeights]) -> AbstractContextManager[None]:
    """The context in which a model samples: with the first average, or its own weights if none."""
    return averages[0].in_use() if averages else nullcontext()


FOLDER = "snapshots"


class Profile(NamedTuple):
    """A power-function average: images seen at its end, and exponent."""

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
            tensors = gathered(average.tensors)
            if distributed.is_main():
                path.parent.mkdir(exist_ok=True)
                write_tensors(path, tensors)


def reconstruct(run_dir: Path, relative_std: float, images: int | None = None) -> dict[str, Tensor]:
    """The power average of another width, for the module that is sampled (`sampled_module`).

    Args:
        run_dir: a run with `training.snapshot_images`.
        relative_std: the width, 0 to 0.2887. Best between the widths that the run kept.
        images: images seen at the end of the average; None: those of the last snapshot.
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
        for name, tensor in newest.items()  # counters come from the newest
    }


def _stored(run_dir: Path) -> list[tuple[Profile, Path]]:
    averages = read_json(run_dir, "config.json")["training"]["averages"]
    widths = [average["relative_std"] for average in averages if average["kind"] == "power"]
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
