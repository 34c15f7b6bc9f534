"""An experiment: data, model, training and evaluation as one config, and recipes of it."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from sfumato.core.config import (
    component,
    decides,
    may_change,
    merge,
    override,
    parse,
    read_toml,
)
from sfumato.core.errors import ConfigError
from sfumato.core.generative_model import GenerativeModel
from sfumato.core.noise import derive_seed
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Dataset, Form
from sfumato.diffusion.diffusion_model import DiffusionConfig
from sfumato.diffusion.guidance import NoisyClassifierConfig
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.gan.gan_model import GANConfig
from sfumato.runs.directory import read_object
from sfumato.speed.plan import Plan
from sfumato.training.training_config import PLAN_KEYS, TrainingConfig

Model = Annotated[DiffusionConfig | GANConfig | NoisyClassifierConfig, Field(discriminator="kind")]


@component
class Experiment:
    """Everything that determines a run.

    Args:
        name: of the run, for people.
        data: where the images come from.
        model: a diffusion model, a GAN, or a classifier of noisy images that guides diffusion.
        conditional: whether the model gets the class as input (where the data have classes).
        training: how to train.
        evaluation: how to score the samples.
    """

    name: Annotated[str, may_change("resume", "arms")]
    data: DataConfig = DataConfig()
    model: Model
    conditional: bool = True
    training: TrainingConfig
    evaluation: Annotated[
        EvaluationConfig, may_change("resume", "after_training"), decides("protocol")
    ] = EvaluationConfig()

    def __post_init__(self) -> None:
        pictures = self.training.sample_images or self.training.score_images
        if isinstance(self.model, NoisyClassifierConfig) and pictures:
            raise ValueError(
                "a noisy_classifier draws no images: set training.sample_images = 0 and "
                "training.score_images = 0"
            )


def load_experiment(name_or_path: str, overrides: list[str]) -> Experiment:
    """A recipe with overrides applied, validated.

    Raises:
        ConfigError: an unknown or ill-typed key; the message names the nearest valid one.
    """
    mapping = override(read_recipe(name_or_path), overrides)
    return parse(Experiment, mapping, source=name_or_path)


def with_plan(experiment: Experiment, plan: Plan) -> Experiment:
    """The experiment with every part of its plan fixed."""
    keys = {key: getattr(plan, key) for key in PLAN_KEYS}
    return replace(experiment, training=replace(experiment.training, **keys))


RECIPES = Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """The names of the experiments that come with the package."""
    names = (path.stem for path in RECIPES.glob("*.toml"))
    return sorted(name for name in names if not is_study(read_toml(RECIPES / f"{name}.toml")))


def is_study(mapping: Mapping[str, Any]) -> bool:
    """Whether the mapping of a TOML file is a study: it has arms, or changes one that has."""
    base = mapping.get("base")
    if "arms" in mapping or base is None:
        return "arms" in mapping
    path = RECIPES / f"{base}.toml"
    return path.exists() and is_study(read_toml(path))


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """The mapping of a recipe given by name (`digits-ddpm`) or by path (`my/recipe.toml`).

    A recipe may begin with `base = "other"`, whose keys it then changes. The config.json of a run
    is a recipe too: the same run again.
    Raises:
        ConfigError: no such recipe, or not TOML.
        RunError: a config.json that is unreadable.
    """
    path = Path(name_or_path)
    if path.suffix == ".json":
        return read_object(path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
        if not path.exists():
            names = recipe_names()
            near = difflib.get_close_matches(name_or_path, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"there is no recipe {name_or_path!r}; {hint}give a path ending in .toml, "
                "or one of: " + ", ".join(names)
            )
    mapping = read_toml(path)
    base = mapping.pop("base", None)
    mapping.setdefault("name", path.stem)
    return merge(read_recipe(base), mapping) if base else mapping


def build_model(experiment: Experiment, dataset: Dataset | Form) -> GenerativeModel:
    """The untrained model for a data set; its initialization depends on `training.seed` alone."""
    num_classes = dataset.num_classes if experiment.conditional else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(experiment.training.seed, "initialization"))
        return experiment.model.build(dataset.image_shape, num_classes)
