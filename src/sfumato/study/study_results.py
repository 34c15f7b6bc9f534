"""results.json of a study: everything the report shows, gathered from the run directories."""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sfumato.core.config import to_mapping
from sfumato.core.files import atomic_path
from sfumato.data.dataset import Dataset, Splits
from sfumato.evaluation.protocol import named_metrics
from sfumato.evaluation.score import metric_columns, plain
from sfumato.experiment.score_run import preview_rows, protocol, row_classes, save_grid
from sfumato.experiment.score_store import StoredScores
from sfumato.runs.directory import environment, read_json
from sfumato.study import statistics
from sfumato.study.arm_scores import BITS, arm_scores, class_key, left_out_classes
from sfumato.study.evaluators import Evaluators
from sfumato.study.history import final_losses
from sfumato.study.measure import COMPARED, MEASURED
from sfumato.study.paired_images import compare_runs
from sfumato.study.pareto import fronts
from sfumato.study.study import Study
from sfumato.study.task import FAILED, run_dir_of

EVALUATED = ("excess", "class_floors", "copies", "grid_rows")
"""What results.json takes over from the evaluation of a run, beside its scores and classes."""


def study_results(
    study: Study, directory: Path, evaluators: Evaluators, seconds: float
) -> dict[str, Any]:
    """The results of the runs that are finished so far, as plain values."""
    first = next(iter(study.arms))
    splits, evaluator = evaluators.splits(first), evaluators.main
    real_rows = _write_real_grid(splits.held_out, directory / "real.png")
    columns = [
        *metric_columns(evaluator.floors, evaluator.protocol),
        *_class_columns(study, evaluators),
    ]
    scores = {name: arm_scores(study, directory, name, evaluators) for name in study.arms}
    found = [_arm(study, directory, name, scores[name], evaluators) for name in study.arms]
    arms = [arm for name, arm in zip(study.arms, found, strict=True) if arm["runs"]]
    if any(BITS.key in run.scores for runs in scores.values() for run in runs.values()):
        columns.append(BITS._asdict() | {"floor": None})
    distinctions = study.distinctions()
    for arm in arms:
        arm["config"] = distinctions[arm["name"]]
    return {
        "name": study.name,
        "title": study.title,
        "description": study.description,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "preset": study.preset,
        "hours": study.hours,
        "shrunk": list(study.shrunk),
        "machine": environment(),
        "data": _data(splits) | {"grid": "real.png", "grid_rows": real_rows},
        "budget": {k: v for k, v in to_mapping(study.budget).items() if v is not None},
        "factors": list(study.factors),
        "seeds": list(study.seeds),
        "protocol": protocol(evaluator, study.arms[first]),
        "metrics": columns,
        "arms": arms,
        "diverged": [failure for arm in found for failure in arm["diverged"]],
        "waiting": _waiting(study, found),
        "verdicts": _verdicts(scores, columns),
        "fronts": fronts(arms, directory, evaluator.config.metrics[0]),
        "compared": _compared(study, directory),
        "published": None if study.published is None else to_mapping(study.published),
        "commands": _commands(study, arms),
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
    }


def _write_real_grid(held_out: Dataset, path: Path) -> list[str]:
    """Real held-out images, laid out as the samples are. Returns the classes of the rows."""
    labels = None if held_out.labels is None else torch.from_numpy(held_out.labels)
    shown = preview_rows(labels, len(held_out))
    with atomic_path(path) as temporary:
        save_grid(held_out.take(shown.numpy()), temporary)
    return row_classes(labels, shown, held_out.class_names)


def _class_columns(study: Study, evaluators: Evaluators) -> list[dict[str, Any]]:
    """A column for each class, with the floor of its own."""
    if not study.measure.by_class:
        return []
    distance = named_metrics(evaluators.main.protocol)["frechet_distance"].label
    return [
        {
            "key": class_key(name),
            "label": f"{distance}, {name}",
            "better": "lower",
            "floor": floors["frechet_distance"].to_mapping(),
        }
        for name, floors in evaluators.main.class_floors.items()
        if "frechet_distance" in floors
    ]


def _arm(
    study: Study,
    directory: Path,
    name: str,
    scores: Mapping[int, StoredScores],
    evaluators: Evaluators,
) -> dict[str, Any]:
    """One arm with its finished and scored runs."""
    runs, diverged = [], []
    facts: dict[str, Any] = {}
    for seed in study.seeds:
        run_dir = run_dir_of(directory, name, seed)
        if (run_dir / FAILED).exists():
            reason = read_json(run_dir, FAILED)["reason"]
            diverged.append({"arm": name, "seed": seed, "reason": reason})
        if seed not in scores:
            continue
        summary, evaluation, measured = (
            read_json(run_dir, file) for file in ("summary.json", "evaluation.json", MEASURED)
        )
        facts = {"parameters": summary["sampled_parameters"], "nfe": evaluation["nfe"]}
        warnings = [
            *summary["warnings"],
            *evaluation.get("warnings", []),
            *measured["warnings"],
            *left_out_classes(study, scores[seed].classes, evaluators),
        ]
        runs.append(
            {
                "seed": seed,
                "directory": run_dir.relative_to(directory).as_posix(),
                "images_seen": summary["images_seen"],
                "train_seconds": summary["train_seconds"],
                "images_per_second": summary["images_per_second"],
                "training_parameters": summary["parameters"],
                "sample_seconds": evaluation["sample_seconds"],
                "scores": plain(scores[seed].scores),
                "classes": {key: plain(own) for key, own in scores[seed].classes.items()},
                **{key: evaluation[key] for key in EVALUATED if key in evaluation},
                "likelihood": measured.get("likelihood"),
                "final_losses": final_losses(run_dir),
                "sampler_curve": measured.get("sampler_curve", []),
                "warnings": warnings,
            }
        )
    return {"name": name, **facts, "runs": runs, "diverged": diverged}


def _waiting(study: Study, arms: list[dict[str, Any]]) -> int:
    """Runs that are not finished."""
    return len(study.tasks) - sum(len(arm["runs"]) + len(arm["diverged"]) for arm in arms)


def _verdicts(
    scores: Mapping[str, Mapping[int, StoredScores]], columns: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A verdict for every pair of arms and metric, corrected for the number of comparisons."""
    keys = [column["key"] for column in columns]
    by_metric = {
        arm: {key: [r.scores[key] for r in runs.values() if key in r.scores] for key in keys}
        for arm, runs in scores.items()
    }
    found = statistics.verdicts(by_metric, {column["key"]: column["better"] for column in columns})
    return [verdict.to_mapping() for verdict in found]


def _compared(study: Study, directory: Path) -> list[dict[str, Any]]:
    """Pairs of arms, image by image, for every training seed that both have."""
    found = []
    for a, b in study.compare:
        for seed in study.seeds:
            left, right = (run_dir_of(directory, arm, seed) / COMPARED for arm in (a, b))
            if left.exists() and right.exists():
                picture = directory / f"compared-{a}-{b}-seed-{seed}.png"
                change = compare_runs(left, right, picture)
                found.append({"a": a, "b": b, "seed": seed, "picture": picture.name, **change})
    return found


def _commands(study: Study, arms: list[dict[str, Any]]) -> list[str]:
    """What makes these results again: all of them, and each arm alone."""
    commands = [f"pip install sfumato=={version('sfumato')}"]
    commands.append(study.command or f"sfumato study {study.name}")
    commands.append("# one arm alone, in the directory of the study:")
    for arm in arms:
        config = f"{arm['runs'][0]['directory']}/config.json"
        commands.append(f"sfumato train {_quoted(config)} --output again")
    return commands


def _quoted(path: str) -> str:
    return path if all(c.isalnum() or c in "-_./=," for c in path) else f"'{path}'"
