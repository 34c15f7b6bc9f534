"""Per-image jackknife terms of the scores of a run, kept for paired comparisons."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sfumato.core.errors import RunError
from sfumato.core.tensors import read_tensors, write_tensors
from sfumato.metrics.estimate import Estimate, LeftOut
from sfumato.runs.directory import read_json

FILE = "evaluation.safetensors"
OPTIONAL = ("strata", "draws")


class StoredScores(NamedTuple):
    """The scores of a run, by the key of the metric, and those of each class by its name."""

    scores: dict[str, Estimate]
    classes: dict[str, dict[str, Estimate]]


def save_scores(run_dir: Path, scores: StoredScores) -> None:
    """Write what is known of each score; image i was drawn from seed i."""
    tensors = {}
    for name, score in _named(scores).items():
        if (left_out := score.left_out) is None:
            continue
        numbers = (score.value, left_out.share, left_out.second, left_out.other)
        tensors[f"{name}.numbers"] = torch.tensor(numbers, dtype=torch.float64)
        tensors[f"{name}.one"] = left_out.one
        tensors[f"{name}.interaction"] = left_out.interaction
        for part in OPTIONAL:
            if (given := getattr(left_out, part)) is not None:
                tensors[f"{name}.{part}"] = given
    write_tensors(run_dir / FILE, {name: tensor.clone() for name, tensor in tensors.items()})


def load_scores(run_dir: Path) -> StoredScores:
    """The scores of evaluation.json, and the jackknife terms of each image where they were kept.

    Raises:
        RunError: the run has no scores.
    """
    evaluation = read_json(run_dir, "evaluation.json")
    try:
        tensors = read_tensors(run_dir / FILE)
    except RunError:  # scored before it was kept, or damaged: comparisons are not paired
        tensors = {}
    classes = evaluation.get("classes", {})
    return StoredScores(
        {key: _read(score, key, tensors) for key, score in evaluation["scores"].items()},
        {
            name: {key: _read(score, _of_class(name, key), tensors) for key, score in own.items()}
            for name, own in classes.items()
        },
    )


def _named(scores: StoredScores) -> dict[str, Estimate]:
    """All of them under the names that their tensors begin with."""
    classes = scores.classes.items()
    return scores.scores | {
        _of_class(name, key): score for name, own in classes for key, score in own.items()
    }


def _of_class(name: str, key: str) -> str:
    return f"classes.{name}.{key}"


def _read(mapping: Mapping[str, object], name: str, tensors: Mapping[str, Tensor]) -> Estimate:
    """A score, with the terms of its images if they were kept of this very score."""
    score = Estimate.from_mapping(mapping)
    numbers = tensors.get(f"{name}.numbers")
    if numbers is None or len(numbers) != 4 or numbers[0] != score.value:  # of another
        return score
    left_out = LeftOut(
        tensors[f"{name}.one"],
        tensors[f"{name}.interaction"],
        share=float(numbers[1]),
        second=float(numbers[2]),
        other=float(numbers[3]),
        **{part: tensors.get(f"{name}.{part}") for part in OPTIONAL},
    )
    return replace(score, left_out=left_out)
