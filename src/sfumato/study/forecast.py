"""Describes a study without reading data, training or writing anything."""

from typing import Any

import torch

from sfumato.core.config import to_mapping
from sfumato.core.errors import SfumatoError
from sfumato.data.catalogue import CATALOGUE, known_form
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Form
from sfumato.experiment.experiment import Experiment, build_model
from sfumato.study.study import Study


def dry_run(study: Study) -> str:
    """The arms with their sizes and differences, the budget, the runs, the changes of a preset.

    Raises:
        ConfigError: a network does not fit its images.
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
    found = form_of(experiment.data)
    if found is None:
        return "parameters unknown before the data are read"
    model = build_on_meta(experiment, found)
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"


def build_on_meta(experiment: Experiment, form: Form) -> Any:
    """The model without memory for its weights.

    Raises:
        ConfigError: the network does not fit its images.
    """
    try:
        with torch.device("meta"):
            return build_model(experiment, form)
    except SfumatoError as error:
        raise type(error)(f"{experiment.name}: {error}") from None


def form_of(data: DataConfig) -> Form | None:
    """The form of the images if it follows from config and catalogue, else None.

    A set outside the catalogue counts as unlabelled unless the config chooses classes.
    """
    if data.source in CATALOGUE or data.size is None or data.channels == "auto":
        return known_form(data)
    return Form((data.channels, *data.size), len(data.classes))
