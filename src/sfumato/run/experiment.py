"""An experiment: data, model, training and evaluation, as one config."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sfumato.core.config import component, merge, override, parse, read_toml
from sfumato.core.errors import ConfigError
from sfumato.data.config import DataConfig
from sfumato.diffusion.classifier_guidance import NoisyClassifierConfig
from sfumato.diffusion.model import DiffusionConfig
from sfumato.gan.model import GANConfig
from sfumato.run.ema import AverageProfile, ExponentialAverage
from sfumato.run.optimizer import Adam, ConstantRate, Optimizer, RateSchedule
from sfumato.run.protocol import EvaluationConfig

RECIPES = Path(__file__).parent.parent / "recipes"

Model = Annotated[DiffusionConfig | GANConfig | NoisyClassifierConfig, Field(discriminator="kind")]


@component
class TrainingConfig:
    """How to train.

    Args:
        seed: of the initialization, the order of the images and the noise.
        batch_size: images in an optimizer step, over all processes.
        micro_batch_size: images in memory at once in a process; the gradients of micro-batches
            are accumulated. None: the whole share of the process.
        budget_images, budget_steps, budget_seconds: where to stop; exactly one is given.
        learning_rate: after the warm-up.
        optimizer: one is built for each module that is trained.
        rate: how the learning rate changes.
        warmup_images: the learning rate rises linearly from 0 over so many images.
        decay_images: the position at which `rate` ends. None: the budget of the first start,
            which is recorded, so that extending the budget does not stretch the decay.
        clip_gradient: largest norm of the gradient of a module; None: no clipping.
        averages: weight averages kept during training; the first is the one sampled with.
        performance: "auto" chooses by timing what is "auto" in the next four, at the start of a
            run; "reference" switches all of it off, whatever they say: float32, contiguous, eager,
            without own kernels, fused optimizers or TF32.
        precision: of the forward and backward pass; weights stay float32. float16 scales the loss.
        layout: of images and weights in memory.
        kernels: own compiled kernels on a CPU; need a C++ compiler.
        compile: networks through torch.compile, in sampling where it pays; for a CPU it needs a C++
            compiler.
        recompute_activations: keep less for the backward pass and compute it again: less memory,
            more time, the same results.
        shard: spread a diffusion model over the processes (FSDP2); nothing happens with one.
        log_images, sample_images, checkpoint_images: images between rows of the log, pictures of
            samples (0: none), checkpoints.
        score_images: images between measurements of the Fréchet distance, by the protocol of
            `evaluation` (0: none). The checkpoint with the smallest is kept.
        snapshot_images: images between snapshots of the power averages, from which averages of
            other widths can be reconstructed (0: none).
        keep_checkpoints: how many to keep, beside the best.
        tensorboard: write the log for TensorBoard too.
        wandb: send the log to Weights & Biases.
    """

    seed: int = 0
    batch_size: int = 128
    micro_batch_size: int | None = None
    budget_images: int | None = None
    budget_steps: int | None = None
    budget_seconds: float | None = None
    learning_rate: float = 2e-4
    optimizer: Optimizer = Adam()
    rate: RateSchedule = ConstantRate()
    warmup_images: int = 0
    decay_images: int | None = None
    clip_gradient: float | None = None
    averages: tuple[AverageProfile, ...] = (ExponentialAverage(),)
    performance: Literal["auto", "reference"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    kernels: Literal["auto"] | bool = "auto"
    compile: Literal["auto"] | bool = "auto"
    recompute_activations: bool = False
    shard: bool = False
    log_images: int = 5_000
    sample_images: int = 100_000
    checkpoint_images: int = 100_000
    score_images: int = 0
    snapshot_images: int = 0
    keep_checkpoints: int = 2
    tensorboard: bool = True
    wandb: bool = False

    def __post_init__(self) -> None:
        budgets = (self.budget_images, self.budget_steps, self.budget_seconds)
        given = [budget for budget in budgets if budget is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ValueError(
                "training needs exactly one budget above 0: budget_images, budget_steps or "
                f"budget_seconds; got {list(budgets)}; on the command line, "
                "training.budget_seconds= (without a value) takes one out"
            )
        for name in ("batch_size", "log_images", "checkpoint_images", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"training needs {name} >= 1, got {getattr(self, name)}")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(f"training needs micro_batch_size >= 1, got {self.micro_batch_size}")
        if self.learning_rate <= 0:
            raise ValueError(f"training needs learning_rate > 0, got {self.learning_rate}")
        for name in ("sample_images", "warmup_images", "score_images", "snapshot_images"):
            if getattr(self, name) < 0:
                raise ValueError(f"training needs {name} >= 0, got {getattr(self, name)}")
        if self.snapshot_images and len([a for a in self.averages if a.kind == "power"]) < 2:
            raise ValueError(
                "training.snapshot_images needs two power averages to reconstruct others from; "
                "add { kind = 'power', relative_std = 0.05 } and 0.10 to averages"
            )
        if self.shard and self.precision == "float16":
            raise ValueError("training.shard and float16 do not go together; use bfloat16")


@component
class Experiment:
    """Everything that determines a run.

    Args:
        name: of the run, for people.
        data: where the images come from.
        model: a diffusion model, a GAN, or a classifier of noisy images to guide the former.
        conditional: whether the model is told the class (where the data have classes).
        training: how to train.
        evaluation: how to score the samples.
    """

    name: str
    data: DataConfig = DataConfig()
    model: Model
    conditional: bool = True
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        pictures = self.training.sample_images or self.training.score_images
        if isinstance(self.model, NoisyClassifierConfig) and pictures:
            raise ValueError(
                "a noisy_classifier draws no images: set training.sample_images = 0 and "
                "training.score_images = 0"
            )


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
    is a recipe too: the very same run again.
    Raises:
        ConfigError: no such recipe, or not TOML.
    """
    path = Path(name_or_path)
    if path.suffix == ".json":
        return _read_config(path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
        if not path.exists():
            raise ConfigError(
                f"there is no recipe {name_or_path!r}; give a path ending in .toml, or one of: "
                + ", ".join(recipe_names())
            )
    mapping = read_toml(path)
    base = mapping.pop("base", None)
    mapping.setdefault("name", path.stem)
    return merge(read_recipe(base), mapping) if base else mapping


def _read_config(path: Path) -> dict[str, Any]:
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check the path") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path} holds no JSON object; give the config.json of a run")
    return mapping


def load_experiment(name_or_path: str, overrides: list[str]) -> Experiment:
    """A recipe with overrides applied, validated.

    Raises:
        ConfigError: an unknown or ill-typed key; the message names the nearest valid one.
    """
    mapping = override(read_recipe(name_or_path), overrides)
    return parse(Experiment, mapping, source=name_or_path)
