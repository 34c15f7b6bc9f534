"""Where images come from: how a run drew them, and the images they may be copies of."""

from collections.abc import Mapping
from typing import Any

from sfumato.data.dataset import Splits
from sfumato.evaluation.image_sources import ImageSet
from sfumato.experiment.score_run import data_of, drawing, sampling
from sfumato.metrics.features import weight_digest
from sfumato.runs.directory import read_json


def origin(images: ImageSet, count: int) -> dict[str, str | int]:
    """How `count` images of a run are drawn, for the protocol; {} for images that are there."""
    run = images.run
    if run is None:
        return {}
    steps = read_json(run.directory, "summary.json")["steps"]
    chosen = {key: _words(given) for key, given in sampling(run.experiment).items()}
    return {
        "training_steps": steps,
        "checkpoint": weight_digest(run.model)[:16],
        **drawing(run.experiment, range(images.first_seed, images.first_seed + count)),
        **chosen,
        "nfe": run.model.nfe,
    }


def _words(settings: Mapping[str, Any] | None, prefix: str = "") -> str:
    """A component's settings in a line, such as "ddim, steps 50"."""
    if settings is None:
        return "none"
    found = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found.append(_words(value, f"{prefix}{key} "))
        elif value is not None:
            found.append(prefix + str(value) if key == "kind" else f"{prefix}{key} {value}")
    return ", ".join(found)


def training_images(images: ImageSet) -> Splits | None:
    """The training images of a run or a data set, and the held-out ones.

    Returns:
        None for images that are no split of any set.
    Raises:
        DataError, RunError: the data of a run cannot be had, or have changed.
    """
    if images.run is not None:
        return data_of(images.run)
    if images.other is None:
        return None
    (part,) = images.parts
    return Splits(part, images.other) if part.split == "train" else Splits(images.other, part)
