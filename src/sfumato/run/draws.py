"""What each image does to the scores of a run, kept beside them for paired comparisons."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from sfumato.core.errors import RunError
from sfumato.metrics.estimate import Estimate
from sfumato.metrics.jackknife import LeftOut
from sfumato.run.checkpoint import read_tensors, write_tensors
from sfumato.run.directory import read_json

FILE = "evaluation.safetensors"


def save_draws(run_dir: Path, scores: Mapping[str, Estimate]) -> None:
    """Write what is known of each score; image i was drawn from seed i."""
    tensors = {}
    for key, score in scores.items():
        if (left_out := score.left_out) is None:
            continue
        numbers = (score.value, left_out.share, left_out.second, left_out.other)
        tensors[f"{key}.numbers"] = torch.tensor(numbers, dtype=torch.float64)
        tensors[f"{key}.one"] = left_out.one
        tensors[f"{key}.interaction"] = left_out.interaction
        if left_out.strata is not None:
            tensors[f"{key}.strata"] = left_out.strata
    write_tensors(run_dir / FILE, {name: tensor.clone() for name, tensor in tensors.items()})


def load_scores(run_dir: Path) -> dict[str, Estimate]:
    """The scores of evaluation.json, and what each image does to them where that was kept.

    Raises:
        RunError: the run has no scores.
    """
    scores = read_json(run_dir, "evaluation.json")["scores"]
    found = {key: Estimate.from_mapping(score) for key, score in scores.items()}
    try:
        tensors = read_tensors(run_dir / FILE)
    except RunError:  # scored before it was kept, or damaged: comparisons are not paired
        return found
    for key, score in found.items():
        numbers = tensors.get(f"{key}.numbers")
        if numbers is None or len(numbers) != 4 or numbers[0] != score.value:  # of another
            continue
        left_out = LeftOut(
            tensors[f"{key}.one"],
            tensors[f"{key}.interaction"],
            share=float(numbers[1]),
            second=float(numbers[2]),
            strata=tensors.get(f"{key}.strata"),
            other=float(numbers[3]),
        )
        found[key] = replace(score, left_out=left_out)
    return found
