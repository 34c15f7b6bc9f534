"""Scoring a run: draw the samples that the protocol asks for, score them, keep the scores."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sfumato.core.config import changeable, differences, to_mapping
from sfumato.core.console import progress_bar, say
from sfumato.core.errors import RunError
from sfumato.core.files import atomic_path, write_json
from sfumato.core.images import Labels, UInt8Images
from sfumato.core.pictures import image_grid, rows_each
from sfumato.core.tensors import read_tensors, write_tensors
from sfumato.data.catalogue import load
from sfumato.data.dataset import Splits
from sfumato.evaluation.copies import PAIRS, save_pairs
from sfumato.evaluation.image_sources import (
    ArrayImages,
    GeneratedImages,
    ImageSource,
    stored_images,
)
from sfumato.evaluation.reference import HeldOut
from sfumato.evaluation.score import score
from sfumato.experiment.experiment import Experiment
from sfumato.experiment.load import LoadedRun, load_run, read_experiment
from sfumato.metrics.estimate import Estimate, LeftOut
from sfumato.metrics.features import weight_digest
from sfumato.runs.directory import read_json
from sfumato.speed.sampling import sample_images
from sfumato.training.training_config import plan_of

COLUMNS = 8
ROWS = 10


def evaluate_run(run_dir: Path, overrides: list[str]) -> dict[str, Any]:
    """Score a finished run by its own protocol, changed by `overrides`; see `score_run`.

    Raises:
        RunError: as `load_with_data`.
    """
    loaded, splits = load_with_data(run_dir, overrides)
    say("preparing the evaluation: classifiers and the floor")
    reference = HeldOut(splits, loaded.experiment.evaluation)
    return score_run(run_dir, reference, loaded)


def load_with_data(run_dir: Path, overrides: list[str]) -> tuple[LoadedRun, Splits]:
    """A finished run and the very data it was trained on.

    Raises:
        RunError: no finished run, an override that would change what was trained, or data that
            have changed since.
    """
    recorded = to_mapping(read_experiment(run_dir))
    for key in differences(recorded, to_mapping(read_experiment(run_dir, overrides))):
        if not changeable(Experiment, key, "after_training"):
            raise RunError(
                f"override of {key}: it was settled when {run_dir} was trained; "
                "evaluation.*, model.sampler.*, model.guidance.* and training.performance may "
                "change"
            )
    loaded = load_run(run_dir, overrides)
    return loaded, data_of(loaded)


def data_of(loaded: LoadedRun) -> Splits:
    """The very data a run was trained on.

    Raises:
        DataError, RunError: they are unavailable, or have changed since.
    """
    splits = load(loaded.experiment.data)
    if loaded.data["digest"] != splits.train.digest:
        raise RunError(
            f"the data of {loaded.directory} have changed since it was trained (digest "
            f"{loaded.data['digest'][:12]}, now {splits.train.digest[:12]}); restore them, or "
            "train again"
        )
    return splits


def score_run(run_dir: Path, reference: HeldOut, loaded: LoadedRun | None = None) -> dict[str, Any]:
    """Sample, score, and write evaluation.json and grid.png into the run directory.

    Where samples are suspected to be copies, memorization.png shows them beside the originals.

    Image i is drawn from seed i with the i-th label of the reference, in every run that is scored
    against it: the runs start from the same noise.
    """
    loaded = loaded or load_run(run_dir)
    labels = reference.labels
    began = time.perf_counter()
    seeds = range(reference.num_images)
    given = labels if loaded.model.num_classes else None
    with progress_bar(f"sampling {loaded.experiment.name}", len(seeds)) as show:
        images = sample_images(loaded.model, given, seeds, plan=loaded.plan, on_progress=show)
    sample_seconds = time.perf_counter() - began
    results = score(ArrayImages(images, given), reference)
    shown = preview_rows(labels, reference.num_images)
    evaluation = {
        "protocol": protocol(reference, loaded.experiment),
        "nfe": loaded.model.nfe,
        "sampling": sampling(loaded.experiment),
        "sample_seconds": sample_seconds,
        "grid_rows": row_classes(given, shown, reference.splits.train.class_names),
        **{k: v for k, v in results.to_mapping().items() if k not in ("floors", "protocol")},
    }
    pairs = run_dir / PAIRS
    if results.copies is None or not save_pairs(results.copies, pairs):
        pairs.unlink(missing_ok=True)  # of an evaluation before this one
    with atomic_path(run_dir / "grid.png") as path:
        save_grid(images[shown], path)
    save_scores(run_dir, StoredScores(results.scores, results.classes))
    write_json(run_dir / "evaluation.json", evaluation)
    return evaluation


def protocol(reference: HeldOut, experiment: Experiment) -> dict[str, str | int | float]:
    """What a score depends on beside the model: the reference's part, and the sampling's."""
    return {**reference.protocol, **drawing(experiment, range(reference.num_images))}


def drawing(experiment: Experiment, seeds: range) -> dict[str, str]:
    """With what weights, by what plan and from what noise images are drawn."""
    averages = experiment.training.averages
    plan = replace(plan_of(experiment.training), compile=False)  # sampling never compiles
    return {
        "weights": f"{averages[0].kind} moving average" if averages else "as trained",
        "performance": str(plan),
        "sampling_seeds": f"{seeds.start} to {seeds.stop - 1}",
    }


def image_source(text: str, overrides: Sequence[str] = ()) -> ImageSource:
    """What `text` names: a run directory, or as for `stored_images`.

    Args:
        text: on the command line.
        overrides: `data.*` such as data.resolution=64, for sources that are not runs.
    Raises:
        DataError, RunError, ConfigError: nothing is there, or it cannot be used.
    """
    if not (Path(text) / "config.json").exists():
        return stored_images(text, overrides)
    return run_images(text, load_run(Path(text)))


def run_images(name: str, loaded: LoadedRun) -> GeneratedImages:
    """A finished run as a source of images."""
    channels, height, width = loaded.data["image_shape"]
    names = tuple(loaded.data["class_names"]) if loaded.experiment.conditional else ()
    return GeneratedImages(
        name=name,
        model=loaded.model,
        plan=loaded.plan,
        image_shape=(channels, height, width),
        class_names=names,
        provenance=lambda seeds: provenance(loaded, seeds),
        training=lambda: data_of(loaded),
    )


def provenance(loaded: LoadedRun, seeds: range) -> dict[str, str | int]:
    """How images of some seeds are drawn by a run, for the protocol."""
    steps = read_json(loaded.directory, "summary.json")["steps"]
    chosen = {key: _words(given) for key, given in sampling(loaded.experiment).items()}
    return {
        "training_steps": steps,
        "checkpoint": weight_digest(loaded.model)[:16],
        **drawing(loaded.experiment, seeds),
        **chosen,
        "nfe": loaded.model.nfe,
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


def sampling(experiment: Experiment) -> dict[str, Any]:
    """How a model samples, where there is a choice: its sampler and guidance."""
    model = to_mapping(experiment)["model"]
    return {key: model[key] for key in ("sampler", "guidance") if key in model}


def preview_rows(labels: Labels | None, count: int) -> torch.Tensor:
    """Which images the picture shows: the first of each class, in rows of 8 of one class."""
    if labels is None:
        return torch.arange(min(count, COLUMNS * ROWS // 2))
    classes = min(int(labels.max()) + 1, ROWS)
    found = [torch.nonzero(labels == c).flatten() for c in range(classes)]
    rows = [row for c in found for row in torch.split(c, COLUMNS)[: rows_each(classes)]]
    full = [row for row in rows if len(row) == COLUMNS]  # a short row would shift the others
    return torch.cat(full or rows)


def row_classes(labels: Labels | None, shown: torch.Tensor, names: tuple[str, ...]) -> list[str]:
    """What each row of a picture shows; nothing where its rows are no classes.

    Args:
        labels: that the images have or were drawn for; None: images of an unconditional model.
        shown: which images are in the picture, as of `preview_rows`.
        names: of all classes.
    """
    rows = () if labels is None else torch.split(labels.cpu()[shown], COLUMNS)
    if any(bool((row != row[0]).any()) for row in rows):
        return []  # too few images of any class to fill a row
    return [names[int(row[0])] for row in rows]


def save_grid(images: UInt8Images, path: Path) -> None:
    """Write images as one picture, small ones enlarged."""
    image_grid(np.asarray(images), COLUMNS).save(path, "PNG")


FILE = "evaluation.safetensors"
OPTIONAL = ("strata", "draws")


class StoredScores(NamedTuple):
    """The scores of a run, by the key of the metric, and those of each class by its name."""

    scores: dict[str, Estimate]
    classes: dict[str, dict[str, Estimate]]


def save_scores(run_dir: Path, scores: StoredScores) -> None:
    """Write what is known of each score; image i was drawn from seed i."""
    tensors = {}
    for name, estimate in _named(scores).items():
        if (left_out := estimate.left_out) is None:
            continue
        numbers = (estimate.value, left_out.share, left_out.second, left_out.other)
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
