"""An experiment: data, model, training and evaluation, as one config."""

from typing import Annotated

from pydantic import Field

from sfumato.core.config import component, decides, may_change, override, parse
from sfumato.data.data_config import DataConfig
from sfumato.diffusion.diffusion_model import DiffusionConfig
from sfumato.diffusion.guidance import NoisyClassifierConfig
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.experiment.recipes import read_recipe
from sfumato.gan.gan_model import GANConfig
from sfumato.training.training_config import TrainingConfig

Model = Annotated[DiffusionConfig | GANConfig | NoisyClassifierConfig, Field(discriminator="kind")]


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
