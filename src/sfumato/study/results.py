"""results.json of a study: everything the report shows, gathered from the run directories."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sfumato.core.config import differences, to_mapping
from sfumato.core.files import atomic_path
from sfumato.data.dataset import Dataset, Splits
from sfumato.metrics.estimate import Estimate
from sfumato.run.directory import environment, read_json
from sfumato.run.evaluate import METRICS, Evaluator
from sfumato.run.score import metric_columns, preview_rows, protocol, save_grid
from sfumato.study import statistics
from sfumato.study.study import IDENTITY, Study

EVALUATED = ("scores", "excess", "classes", "class_floors", "copies")
"""What results.json takes over from the evaluation of a run."""


def study_results(
    study: Study, directory: Path, evaluator: Evaluator, splits: Splits, seconds: float
) -> dict[str, Any]:
    """The results of the runs that are finished so far, as plain values."""
    first = next(iter(study.arms.values()))
    _write_real_grid(splits.held_out, directory / "real.png")
    arms = [arm for name in study.arms if (arm := _arm(study, directory, name))["runs"]]
    return {
        "name": study.name,
        "title": study.title,
        "description": study.description,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "machine": environment(),
        "data": _data(splits),
        "budget": {k: v for k, v in to_mapping(study.budget).items() if v is not None},
        "factors": list(study.factors),
        "seeds": list(study.seeds),
        "protocol": protocol(evaluator, first),
        "metrics": metric_columns(evaluator),
        "arms": arms,
        "verdicts": _verdicts(arms),
        "commands": [f"sfumato study {study.name}"],
    }


def _data(splits: Splits) -> dict[str, Any]:
    train = splits.train
    return {
        "source": train.name,
        "train": len(train),
        "held_out": len(splits.held_out),
        "image_shape": list(train.image_shape),
        "class_names": list(train.class_names),
        "digest": train.digest,
        "grid": "real.png",
    }


def _write_real_grid(held_out: Dataset, path: Path) -> None:
    """Real held-out images, laid out as the samples are."""
    labels = None if held_out.labels is None else torch.from_numpy(held_out.labels)
    rows = preview_rows(labels, len(held_out))
    with atomic_path(path) as temporary:
        save_grid(held_out.take(rows.numpy()), temporary)


def _arm(study: Study, directory: Path, name: str) -> dict[str, Any]:
    """One arm with its finished and scored runs."""
    runs = []
    facts: dict[str, Any] = {}
    for seed in study.seeds:
        run_dir = directory / "runs" / name / f"seed-{seed}"
        if not (run_dir / "evaluation.json").exists():
            continue
        summary, evaluation = (
            read_json(run_dir, "summary.json"),
            read_json(run_dir, "evaluation.json"),
        )
        facts = {"parameters": summary["sampled_parameters"], "nfe": evaluation["nfe"]}
        runs.append(
            {
                "seed": seed,
                "directory": run_dir.relative_to(directory).as_posix(),
                "images_seen": summary["images_seen"],
                "train_seconds": summary["train_seconds"],
                "images_per_second": summary["images_per_second"],
                "training_parameters": summary["parameters"],
                "sample_seconds": evaluation["sample_seconds"],
                **{key: evaluation[key] for key in EVALUATED if key in evaluation},
                "warnings": [*summary["warnings"], *evaluation.get("warnings", [])],
            }
        )
    return {"name": name, **facts, "config": _distinction(study, name), "runs": runs}


def _distinction(study: Study, name: str) -> dict[str, Any]:
    """The values of an arm, by dotted key, in which the arms of the study differ."""
    own = to_mapping(study.arms[name])
    keys: dict[str, Any] = {}
    for other in study.arms.values():
        for key, (value, _) in differences(own, to_mapping(other)).items():
            if key not in IDENTITY and value is not None:
                keys[key] = value
    return keys


def _verdicts(arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A verdict for every pair of arms and metric, corrected for the number of comparisons."""
    scores = {
        arm["name"]: {
            metric.key: [
                Estimate.from_mapping(run["scores"][metric.key])
                for run in arm["runs"]
                if metric.key in run["scores"]
            ]
            for metric in METRICS
        }
        for arm in arms
    }
    found = statistics.verdicts(scores, {metric.key: metric.better for metric in METRICS})
    return [verdict.to_mapping() for verdict in found]
