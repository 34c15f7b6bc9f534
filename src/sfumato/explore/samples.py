"""Samples of a run, under guidance by another run if wanted, to folders, npz, grids, animations."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sfumato.core.console import progress_bar
from sfumato.core.errors import RunError
from sfumato.core.files import atomic_path
from sfumato.core.generative_model import GenerativeModel, OnStep, Phase
from sfumato.core.images import Images, Labels, UInt8Images, to_uint8, within_range
from sfumato.core.noise import RandomStream
from sfumato.core.pictures import image_grid, save_animation, to_pil
from sfumato.core.tensors import load_into, read_tensors
from sfumato.data.output import file_name
from sfumato.diffusion.diffusion_model import DiffusionModel
from sfumato.diffusion.guidance import AutoGuided, ClassifierGuided, Interval, NoisyClassifier
from sfumato.experiment.load import LoadedRun, load_run
from sfumato.explore.real_images import diffusion_of
from sfumato.speed.sampling import balanced_labels, class_numbers, sample_batches, sample_images
from sfumato.training.checkpoint import load_checkpoint

COLUMNS = 8
ANIMATED = 64
MAX_FRAMES = 60


@dataclass(frozen=True)
class Guide:
    """What guides a run.

    Args:
        autoguide: a weaker run, or a .safetensors file of a run: a checkpoint or weights.
        classifier: a run of a noisy classifier.
        scale: autoguidance: 1 is off. Classifier: of its gradient; 0 is off.
        interval: noise levels sigma / alpha between which the guide acts; None: all.
    Raises:
        RunError: not exactly one guide, or a value out of range.
    """

    autoguide: Path | None = None
    classifier: Path | None = None
    scale: float = 2.0
    interval: Interval | None = None

    def __post_init__(self) -> None:
        if (self.autoguide is None) == (self.classifier is None):
            raise RunError(
                "--scale and --interval belong to one guide: --autoguide or --classifier (for "
                "classifier-free guidance write model.guidance.scale=2)"
            )
        if self.scale < 0:
            raise RunError(f"--scale must be at least 0, got {self.scale}")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise RunError(f"--interval needs 0 <= LOW < HIGH, got {list(self.interval)}")

    def apply(self, loaded: LoadedRun) -> LoadedRun:
        """The run with a model that samples under this guide.

        Raises:
            RunError: the two do not fit together.
            ConfigError: their schedules differ.
        """
        model = diffusion_of(loaded, "guidance")
        guided = (
            self._by_weaker(loaded, model) if self.autoguide else self._by_classes(loaded, model)
        )
        return replace(loaded, model=GuidedModel(model, guided))

    def _by_weaker(self, loaded: LoadedRun, model: DiffusionModel) -> AutoGuided:
        assert self.autoguide is not None
        if model.config.guidance.scale != 1:
            raise RunError(
                "autoguidance takes the place of classifier-free guidance; set "
                f"model.guidance.scale=1 (it is {model.config.guidance.scale})"
            )
        weak = load_weaker(self.autoguide)
        _check_same_data(loaded, weak, self.autoguide)
        weaker = diffusion_of(weak, "--autoguide")
        if weaker.num_classes != model.num_classes:
            raise RunError(
                f"{self.autoguide} has {weaker.num_classes} classes and {loaded.directory} "
                f"{model.num_classes}; both must be conditional, or neither"
            )
        return AutoGuided(model.denoiser, weaker.denoiser, self.scale, self.interval)

    def _by_classes(self, loaded: LoadedRun, model: DiffusionModel) -> ClassifierGuided:
        assert self.classifier is not None
        guide = load_run(self.classifier)
        _check_same_data(loaded, guide, self.classifier)
        classifier = guide.model
        if not isinstance(classifier, NoisyClassifier):
            raise RunError(
                f"{self.classifier} is of kind {guide.experiment.model.kind!r}; --classifier needs "
                "a run of a noisy_classifier, such as recipe digits-noisy-classifier trains"
            )
        if classifier.schedule != model.config.schedule:
            raise RunError(
                f"the classifier {self.classifier} knows the noise of {classifier.schedule}, and "
                f"{loaded.directory} has {model.config.schedule}; train it with that model.schedule"
            )
        return ClassifierGuided(model.guided, classifier, self.scale, self.interval)


class GuidedModel(GenerativeModel):
    """A diffusion model that samples through another denoiser than its own; not for training."""

    def __init__(self, model: DiffusionModel, denoiser: AutoGuided | ClassifierGuided) -> None:
        super().__init__()
        self.model = model
        self.denoiser = denoiser
        guide = denoiser.weak if isinstance(denoiser, AutoGuided) else denoiser.classifier
        if isinstance(guide, nn.Module):
            self.guide = guide  # a part of this model, so that both are on one device
        self.image_shape = model.image_shape
        self.num_classes = model.num_classes

    @property
    def nfe(self) -> int:
        """Evaluations of the model and of its guide. One of a classifier includes its gradient."""
        return self.model.nfe + self.model.config.sampler.nfe

    @property
    def sampled_module(self) -> nn.Module:
        """The networks of the model and of its guide."""
        return self

    def phases(self) -> list[Phase]:
        """None: it is not trained."""
        return []

    def sample(
        self, labels: Labels | None, noise: RandomStream, on_step: OnStep | None = None
    ) -> Images:
        """As the model samples, under the guide."""
        return self.model.sample_with(self.denoiser, labels, noise, on_step)

    def sample_costliest_step(self, labels: Labels | None, noise: RandomStream) -> None:
        """The first step, guided even if the guide only acts in later ones."""
        self.model.first_step(self.denoiser, labels, noise)


def load_weaker(path: Path) -> LoadedRun:
    """A run, or a run with the weights of one of its files.

    Args:
        path: a run directory; or in one, `checkpoints/*.safetensors` (its first average, or its
            weights if there is none), or a file of weights such as `best.safetensors`.
    Raises:
        RunError: no run, or no such file.
    """
    if path.suffix != ".safetensors":
        return load_run(path)
    is_checkpoint = path.with_suffix(".json").exists()
    loaded = load_run(path.parent.parent if is_checkpoint else path.parent)
    if not is_checkpoint:
        load_into(loaded.model, read_tensors(path), str(path))
        return loaded
    tensors = load_checkpoint(path).tensors
    load_into(loaded.model, _below(tensors, "model/"), str(path))
    if averaged := _below(tensors, "average/0/"):
        load_into(loaded.model.sampled_module, averaged, str(path))
    return loaded


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _check_same_data(loaded: LoadedRun, guide: LoadedRun, path: Path) -> None:
    for key, name in (("image_shape", "images of shape"), ("class_names", "classes")):
        if guide.data[key] != loaded.data[key]:
            raise RunError(
                f"{path} was trained on {name} {guide.data[key]} and {loaded.directory} on "
                f"{loaded.data[key]}; a guide must know the same data"
            )


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
    """Sample `number` images, under a guide if there is one, and write them; return the paths.

    Raises:
        RunError: no finished run, no such class, a number below 1, or an output that exists.
    """
    for option, value in (("--num-images", number), ("--batch-size", batch_size)):
        if value is not None and value < 1:
            raise RunError(f"{option} must be at least 1, got {value}")
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
    array = images.numpy()
    if output.suffix == ".npz":
        arrays: dict[str, Any] = {"x": array.transpose(0, 2, 3, 1), "seeds": np.array(seeds)}
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
        to_pil(array[position]).save(folder / f"{seed:06d}.png")
    return output


def _picture(images: UInt8Images) -> Image.Image:
    return image_grid(images.numpy(), COLUMNS)


def _write_animation(loaded: LoadedRun, labels: Labels | None, seeds: range, path: Path) -> None:
    """How images emerge: x_t on the left, the predicted x_0 on the right."""
    frames: list[Image.Image] = []

    def keep(step: int, x_t: Tensor, x_0: Tensor) -> None:
        both = torch.cat([within_range(x_t), x_0], dim=3)
        frames.append(_picture(to_uint8(both).cpu()))

    for _ in sample_batches(loaded.model, labels, seeds, ANIMATED, loaded.plan, on_step=keep):
        pass
    stride = -(-len(frames) // MAX_FRAMES)
    chosen = frames[::-1][::stride][::-1]  # the last one is always shown
    save_animation(chosen, path, fps=12)
