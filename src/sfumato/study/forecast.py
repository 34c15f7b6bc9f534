"""What a study would do, without reading data, training or writing anything."""

from typing import Any

import torch

from sfumato.core.config import to_mapping
from sfumato.core.errors import SfumatoError
from sfumato.core.images import Shape
from sfumato.data.data_config import DataConfig
from sfumato.experiment.experiment import Experiment
from sfumato.study.study import Study

SHAPES: dict[str, tuple[Shape, int]] = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "stanford-cars": ((3, 0, 0), 196),
}
"""Image shape and classes of the sets that have a name; 0 pixels: as `data.resolution` says."""


def dry_run(study: Study) -> str:
    """The arms with their sizes and differences, the budget, the runs, and what a preset shrank.

    Raises:
        ConfigError: a network that cannot be built for its images.
    """
    lines = [f"{study.title or study.name}", ""]
    width = max(map(len, study.arms))
    first: dict[str, Any] = {}
    for name, distinction in study.distinctions().items():
        new = {key: value for key, value in distinction.items() if first.get(key) != value}
        first = first or distinction
        values = ", ".join(f"{key}={value}" for key, value in new.items())
        lines.append(f"{name:<{width}}  {size(study.arms[name])}  {values}".rstrip())
    budget = {k: v for k, v in to_mapping(study.budget).items() if v is not None}
    (unit, amount), *_ = budget.items()
    count = len(study.tasks) * (study.search.trials if study.search else 1)
    lines += [
        "",
        f"budget   {amount:,} {unit} a run",
        f"runs     {count}: {len(study.arms)} arms x {len(study.seeds)} training seeds"
        + (f" x {study.search.trials} trials" if study.search else ""),
    ]
    if study.hours is not None:
        lines.append(f"time     at most {study.hours:g} hours on 2 cores")
    lines += [f"preset {study.preset}: {line}" for line in study.shrunk]
    if study.published is not None:
        lines += ["", f"published ({study.published.source}):"]
        lines += [f"  {figure.what}: {figure.value:g}" for figure in study.published.figures]
        lines += [f"  {claim}" for claim in study.published.claims]
    return "\n".join(lines)


def size(experiment: Experiment) -> str:
    """The number of parameters, as text."""
    found = shape_of(experiment.data)
    if found is None:
        return "parameters unknown before the data are read"
    model = build_on_meta(experiment, *found)
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"


def build_on_meta(experiment: Experiment, shape: Shape, num_classes: int) -> Any:
    """The model without memory for its weights.

    Raises:
        ConfigError: a network that cannot be built for its images.
    """
    try:
        with torch.device("meta"):
            return experiment.model.build(shape, num_classes if experiment.conditional else 0)
    except SfumatoError as error:
        raise type(error)(f"{experiment.name}: {error}") from None


def shape_of(data: DataConfig) -> tuple[Shape, int] | None:
    """Image shape and number of classes as far as the config tells them; None: it does not."""
    shape, num_classes = SHAPES.get(data.source, ((3, 0, 0), 0))
    channels = shape[0] if data.channels == "auto" else data.channels
    height, width = data.size or shape[1:]
    if not height or (data.source not in SHAPES and data.channels == "auto"):
        return None
    return (channels, height, width), len(data.classes) or num_classes
