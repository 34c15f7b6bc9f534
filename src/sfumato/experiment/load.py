"""A finished run, loaded: its experiment, its model and the description of its data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfumato.core.config import (
    changeable,
    differences,
    left_open,
    override,
    parse,
    to_mapping,
)
from sfumato.core.console import say_once
from sfumato.core.distributed import default_device
from sfumato.core.errors import RunError
from sfumato.core.generative_model import GenerativeModel
from sfumato.core.tensors import load_into, read_tensors
from sfumato.data.dataset import Dataset
from sfumato.experiment.experiment import Experiment, with_plan
from sfumato.runs.directory import read_json
from sfumato.speed.plan import Plan, apply_plan, available
from sfumato.training.training_config import plan_of


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, its experiment, and the description of its data.

    `plan` is how to compute with the model here; `data` holds what is in data.json.
    """

    directory: Path
    experiment: Experiment
    model: GenerativeModel
    data: dict[str, Any]
    plan: Plan


def load_run(run_dir: Path, overrides: Sequence[str] = ()) -> LoadedRun:
    """The model of a finished run, with the weights it samples with, on the default device.

    The plan is that of the run, without what is unavailable here, and without compilation, which is
    for training. The returned experiment has it too.

    Args:
        run_dir: a run directory.
        overrides: changes such as `model.sampler.steps=20`; those that change the shape of the
            network are refused.
    Raises:
        RunError: no run is there, or it is not finished.
    """
    experiment = read_experiment(run_dir, overrides)
    weights = run_dir / "final.safetensors"
    if not weights.exists():
        raise RunError(
            f"run {run_dir} is not finished: it has no final.safetensors; "
            "finish it with sfumato train ... --resume"
        )
    data = read_json(run_dir, "data.json")
    num_classes = data["num_classes"] if experiment.conditional else 0
    model = experiment.model.build(tuple(data["image_shape"]), num_classes)
    load_into(model, read_tensors(weights), str(weights))
    model.to(default_device()).eval().requires_grad_(False)
    wanted = replace(plan_of(experiment.training), compile=False)
    plan = available(wanted)
    if plan != wanted:
        say_once(f"computing by {plan}: there is no C++ compiler that works, which {wanted} needs")
    apply_plan(model, plan)
    experiment = with_plan(experiment, plan)
    return LoadedRun(run_dir, experiment, model, data, plan)


def read_experiment(directory: Path, overrides: Sequence[str] = ()) -> Experiment:
    """The resolved experiment of a run directory, with overrides applied.

    Raises:
        RunError: there is no run there.
        ConfigError: an unknown or ill-typed key.
    """
    source = "override" if overrides else str(directory / "config.json")
    mapping = override(read_json(directory, "config.json"), overrides)
    return parse(Experiment, mapping, source)


def check_same_experiment(directory: Path, experiment: Experiment, force: bool) -> Experiment:
    """Refuse to resume with a config that would change the steps still to come.

    Returns:
        The experiment with the values that the run settled at its start, where it leaves them open:
        the length of the decay and the performance plan.
    Raises:
        RunError: names every key that changed, with both values.
    """
    recorded, given = read_experiment(directory), experiment.training
    settled: dict[str, Any] = {
        key: getattr(recorded.training, key)
        for key, open_value in left_open(type(given)).items()
        if getattr(given, key) == open_value
    }
    experiment = replace(experiment, training=replace(given, **settled))
    changed = {
        key: values
        for key, values in differences(to_mapping(recorded), to_mapping(experiment)).items()
        if not changeable(Experiment, key, "resume")
    }
    if changed and not force:
        listing = ", ".join(f"{key} ({old!r} -> {new!r})" for key, (old, new) in changed.items())
        raise RunError(
            f"cannot resume {directory}: the config differs from the recorded one in {listing}; "
            "undo the change, start a new run, or pass --force"
        )
    return experiment


def describe(dataset: Dataset) -> dict[str, Any]:
    """The content of data.json: the shape and classes a model is built for, and a digest."""
    return {
        "source": dataset.name,
        "train": len(dataset),
        "image_shape": list(dataset.image_shape),
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "digest": dataset.digest,
    }
