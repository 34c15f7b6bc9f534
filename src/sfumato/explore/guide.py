"""Guiding a trained diffusion model by another run: a weaker model, or a noisy classifier."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sfumato.core.errors import RunError
from sfumato.core.generative_model import OnStep, Phase
from sfumato.core.images import Images, Labels
from sfumato.core.noise import RandomStream
from sfumato.core.tensors import load_into, read_tensors
from sfumato.diffusion.classifier_guidance import ClassifierGuided, NoisyClassifier
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.diffusion_model import DiffusionModel
from sfumato.diffusion.guidance import AutoGuided, Interval
from sfumato.experiment.load import LoadedRun, load_run
from sfumato.training.checkpoint import load_checkpoint


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
        model = loaded.model
        if not isinstance(model, DiffusionModel):
            raise RunError(
                f"only a diffusion model can be guided; {loaded.directory} is of kind "
                f"{loaded.experiment.model.kind!r}"
            )
        guided = (
            self._by_weaker(loaded, model) if self.autoguide else self._by_classes(loaded, model)
        )
        return replace(loaded, model=GuidedModel(model, guided))

    def _by_weaker(self, loaded: LoadedRun, model: DiffusionModel) -> Denoiser:
        assert self.autoguide is not None
        if model.config.guidance.scale != 1:
            raise RunError(
                "autoguidance takes the place of classifier-free guidance; set "
                f"model.guidance.scale=1 (it is {model.config.guidance.scale})"
            )
        weak = load_weaker(self.autoguide)
        _check_alike(loaded, weak, self.autoguide)
        if not isinstance(weak.model, DiffusionModel):
            raise RunError(
                f"{self.autoguide} is no diffusion model; name a weaker one to --autoguide"
            )
        if weak.model.num_classes != model.num_classes:
            raise RunError(
                f"{self.autoguide} has {weak.model.num_classes} classes and {loaded.directory} "
                f"{model.num_classes}; both must be conditional, or neither"
            )
        return AutoGuided(model.denoiser, weak.model.denoiser, self.scale, self.interval)

    def _by_classes(self, loaded: LoadedRun, model: DiffusionModel) -> Denoiser:
        assert self.classifier is not None
        guide = load_run(self.classifier)
        _check_alike(loaded, guide, self.classifier)
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
        inner = model.config.guidance.guide(model.denoiser, model.num_classes)
        return ClassifierGuided(inner, classifier, self.scale, self.interval)


class GuidedModel(nn.Module):
    """A diffusion model that samples through another denoiser than its own; not for training."""

    def __init__(self, model: DiffusionModel, denoiser: Denoiser) -> None:
        super().__init__()
        self.model = model
        self.denoiser = denoiser
        self.image_shape = model.image_shape
        self.num_classes = model.num_classes

    @property
    def nfe(self) -> int:
        """The model's and as many of the guide, with its gradient where it is a classifier."""
        return self.model.nfe + self.model.config.sampler.nfe

    @property
    def sampled_module(self) -> nn.Module:
        """The guided denoiser."""
        return self.denoiser

    def phases(self) -> list[Phase]:
        """None: it is not trained."""
        return []

    def sample(
        self, labels: Labels | None, noise: RandomStream, on_step: OnStep | None = None
    ) -> Images:
        """As the model samples, under the guide."""
        return self.model.sample_with(self.denoiser, labels, noise, on_step)


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
    run_dir = path.parent.parent if is_checkpoint else path.parent
    loaded = load_run(run_dir)
    tensors = load_checkpoint(path).tensors if is_checkpoint else read_tensors(path)
    if is_checkpoint:
        sampled: Any = loaded.model.sampled_module
        averaged = _below(tensors, "average/0/")
        load_into(loaded.model, _below(tensors, "model/"), str(path))
        if averaged:
            load_into(sampled, averaged, str(path))
    else:
        load_into(loaded.model, tensors, str(path))
    loaded.model.to(next(loaded.model.parameters()).device).eval().requires_grad_(False)
    return loaded


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _check_alike(loaded: LoadedRun, guide: LoadedRun, path: Path) -> None:
    for key, name in (("image_shape", "images of shape"), ("class_names", "classes")):
        if guide.data[key] != loaded.data[key]:
            raise RunError(
                f"{path} was trained on {name} {guide.data[key]} and {loaded.directory} on "
                f"{loaded.data[key]}; a guide must know the same data"
            )
