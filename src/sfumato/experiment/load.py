"""A finished run, loaded: its experiment, its model and the description of its data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.core.config import override, parse, to_mapping
from sfumato.core.device import default_device
from sfumato.core.errors import RunError
from sfumato.core.generative_model import GenerativeModel
from sfumato.core.tensors import load_into, read_tensors
from sfumato.experiment.experiment import Experiment
from sfumato.runs.directory import read_experiment, read_json
from sfumato.speed.plan import apply_plan, available, plan_of, with_plan
from sfumato.speed.sample_compiled import say_once


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, its experiment, and the description of its data."""

    directory: Path
    experiment: Experiment
    model: GenerativeModel
    data: dict[str, Any]


def load_run(run_dir: Path, overrides: list[str] | None = None) -> LoadedRun:
    """The model of a finished run, with the weights it samples with, on the default device.

    It computes by the performance plan of the run, as far as that can be had here; the experiment
    that is returned says which plan that is.

    Args:
        run_dir: a run directory.
        overrides: changes such as `model.sampler.steps=20`; those that change the shape of the
            network are refused.
    Raises:
        RunError: no run is there, or it is not finished.
    """
    experiment = read_experiment(run_dir)
    if overrides:
        mapping = override(to_mapping(experiment), overrides)
        experiment = parse(Experiment, mapping, "override")
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
    wanted = plan_of(experiment.training)
    plan = available(wanted)
    if plan != wanted:
        say_once(f"computing by {plan}: for {wanted} there is no C++ compiler that works")
    apply_plan(model, plan)
    experiment = with_plan(experiment, plan)
    return LoadedRun(run_dir, experiment, model, data)
