"""Which keys of an experiment and of a study may change, by the marks of their fields."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from sfumato.core.config import When, changeable, is_decisive, left_open
from sfumato.experiment.experiment import Experiment
from sfumato.study.study import Study
from sfumato.training.training_config import TrainingConfig


def keys(config: Any, prefix: str = "") -> Iterator[str]:
    """The fields of a component, and those of its sections that are components themselves."""
    for field in fields(config):
        yield f"{prefix}{field.name}"
        kind = getattr(field.type, "__origin__", field.type)
        if is_dataclass(kind):
            yield from keys(kind, f"{prefix}{field.name}.")


BUDGET = {"training.budget_images", "training.budget_steps", "training.budget_seconds"}
LOGGING = {
    "training.log_images",
    "training.sample_images",
    "training.score_images",
    "training.snapshot_images",
    "training.checkpoint_images",
    "training.keep_checkpoints",
    "training.tensorboard",
    "training.wandb",
}
MEMORY = {"training.recompute_activations", "training.shard"}
EVALUATION = {key for key in keys(Experiment) if key.split(".")[0] == "evaluation"}
MAY_CHANGE: dict[When, set[str]] = {
    "resume": {"name"} | BUDGET | LOGGING | MEMORY | EVALUATION,
    "after_training": {"training.performance"} | EVALUATION,
    "arms": {"name", "training.seed"},
    "study": set(),
}


@pytest.mark.parametrize("when", MAY_CHANGE)
def test_the_keys_of_an_experiment_that_may_change(when: When) -> None:
    assert {key for key in keys(Experiment) if changeable(Experiment, key, when)} == (
        MAY_CHANGE[when]
    )


def test_the_sampler_and_the_guidance_of_a_diffusion_model_may_change_after_training() -> None:
    for key in ("model.sampler", "model.sampler.steps", "model.sampler.grid.rho", "model.guidance"):
        assert changeable(Experiment, key, "after_training")
        assert not changeable(Experiment, key, "resume")
    assert not changeable(Experiment, "model.network.channels", "after_training")


def test_what_a_run_settles_at_its_start() -> None:
    assert left_open(TrainingConfig) == {
        "decay_images": None,
        "precision": "auto",
        "layout": "auto",
        "kernels": "auto",
        "compile": "auto",
    }


def test_what_decides_the_protocol_and_the_speed() -> None:
    every = list(keys(Experiment))
    assert {key for key in every if is_decisive(Experiment, key, "protocol")} == (
        {"data.held_out"} | EVALUATION
    )
    assert {key for key in every if is_decisive(Experiment, key, "speed")} == MEMORY | {
        "training.batch_size",
        "training.micro_batch_size",
        "training.precision",
        "training.layout",
        "training.kernels",
        "training.compile",
    }


def test_the_keys_of_a_study_that_may_change_when_it_goes_on() -> None:
    top = {field.name for field in fields(Study)}
    assert {key for key in top if changeable(Study, key, "study")} == {
        "title",
        "description",
        "seeds",
        "published",
        "hours",
        "shrunk",
        "command",
    }
    assert changeable(Study, "search.trials", "study")
    assert changeable(Study, "published.source", "study")
    assert not changeable(Study, "search", "study")
    assert not changeable(Study, "search.ranges", "study")
