"""results.json of a study: the content of its report, Pareto fronts included."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch

from sfumato.core.config import to_mapping
from sfumato.core.distributed import gpu_name
from sfumato.core.files import atomic_path
from sfumato.data.dataset import Dataset, Splits
from sfumato.evaluation.protocol import named_metrics
from sfumato.evaluation.score import metric_columns
from sfumato.experiment.score_run import (
    StoredScores,
    preview_rows,
    protocol,
    row_classes,
    save_grid,
)
from sfumato.metrics import METRICS
from sfumato.runs.directory import environment, read_json, read_metrics
from sfumato.runs.result_files import read_record, to_record
from sfumato.runs.results import (
    ArmRecord,
    Comparison,
    EvaluationRecord,
    Facts,
    Failure,
    FrontPoint,
    Fronts,
    Measurements,
    MetricColumn,
    Results,
    RunRecord,
    SummaryRecord,
    Verdict,
)
from sfumato.study.arm_scores import BITS, arm_scores, class_key, left_out_classes
from sfumato.study.evaluators import Evaluators
from sfumato.study.measure import COMPARED, MEASURED, compare_runs, recorded
from sfumato.study.study import Study
from sfumato.study.task import FAILED, run_dir_of
from sfumato.study.verdicts import verdicts

K = TypeVar("K", int, float)
T = TypeVar("T")
LATE = 10
"""Final losses are means over the last tenth of training."""


def study_results(study: Study, directory: Path, evaluators: Evaluators, seconds: float) -> Results:
    """The results of the finished runs."""
    first = next(iter(study.arms))
    splits, evaluator = evaluators.splits(first), evaluators.main
    real_rows = _write_real_grid(splits.held_out, directory / "real.png")
    columns = [
        *(
            to_record(MetricColumn, column, "metric")
            for column in metric_columns(evaluator.floors, evaluator.protocol)
        ),
        *_class_columns(study, evaluators),
    ]
    scores = {name: arm_scores(study, directory, name, evaluators) for name in study.arms}
    found = [
        _arm(study, directory, name, scores[name], evaluators).model_copy(update={"config": own})
        for name, own in study.distinctions().items()
    ]
    arms = [arm for arm in found if arm.runs]
    if any(BITS.key in run.scores for runs in scores.values() for run in runs.values()):
        columns.append(BITS)
    return Results(
        name=study.name,
        title=study.title,
        description=study.description,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        preset=study.preset,
        hours=study.hours,
        shrunk=list(study.shrunk),
        machine=environment(torch.get_num_threads(), gpu_name()),
        data=_data(splits) | {"grid": "real.png", "grid_rows": real_rows},
        budget={k: v for k, v in to_mapping(study.budget).items() if v is not None},
        factors=list(study.factors),
        seeds=list(study.seeds),
        protocol=dict(protocol(evaluator, study.arms[first])),
        metrics=columns,
        arms=arms,
        diverged=[failure for arm in found for failure in arm.diverged],
        waiting=len(study.tasks) - sum(len(arm.runs) + len(arm.diverged) for arm in found),
        verdicts=_verdicts(scores, columns),
        fronts=fronts(arms, directory, evaluator.config.metrics[0]),
        compared=_compared(study, directory),
        published=study.published,
        commands=_commands(study, arms),
    )


def _data(splits: Splits) -> Facts:
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
    """Draw held-out images in the layout of the samples; return the classes of the rows."""
    labels = None if held_out.labels is None else torch.from_numpy(held_out.labels)
    shown = preview_rows(labels, len(held_out))
    with atomic_path(path) as temporary:
        save_grid(held_out.take(shown.numpy()), temporary)
    return row_classes(labels, shown, held_out.class_names)


def _class_columns(study: Study, evaluators: Evaluators) -> list[MetricColumn]:
    """A column for each class, with the floor of that class."""
    if not study.measure.by_class:
        return []
    distance = named_metrics(evaluators.main.protocol)["frechet_distance"].label
    return [
        MetricColumn(
            key=class_key(name),
            label=f"{distance}, {name}",
            better="lower",
            floor=recorded(floors["frechet_distance"]),
        )
        for name, floors in evaluators.main.class_floors.items()
        if "frechet_distance" in floors
    ]


def _arm(
    study: Study,
    directory: Path,
    name: str,
    scores: Mapping[int, StoredScores],
    evaluators: Evaluators,
) -> ArmRecord:
    """One arm with its finished runs; without its `config`."""
    runs, diverged = [], []
    parameters, nfe = None, None
    for seed in study.seeds:
        run_dir = run_dir_of(directory, name, seed)
        if (run_dir / FAILED).exists():
            reason = read_json(run_dir, FAILED)["reason"]
            diverged.append(Failure(arm=name, seed=seed, reason=reason))
        if seed not in scores:
            continue
        summary = read_record(SummaryRecord, run_dir / "summary.json")
        evaluation = read_record(EvaluationRecord, run_dir / "evaluation.json")
        measured = read_record(Measurements, run_dir / MEASURED)
        parameters, nfe = summary.sampled_parameters, evaluation.nfe
        run = RunRecord(
            seed=seed,
            directory=run_dir.relative_to(directory).as_posix(),
            images_seen=summary.images_seen,
            train_seconds=summary.train_seconds,
            images_per_second=summary.images_per_second,
            training_parameters=summary.parameters,
            sample_seconds=evaluation.sample_seconds,
            scores={key: recorded(score) for key, score in scores[seed].scores.items()},
            classes={
                label: {key: recorded(score) for key, score in own.items()}
                for label, own in scores[seed].classes.items()
            },
            excess=evaluation.excess,
            class_floors=evaluation.class_floors,
            copies=evaluation.copies,
            grid_rows=evaluation.grid_rows,
            likelihood=measured.likelihood,
            final_losses=final_losses(run_dir),
            sampler_curve=measured.sampler_curve,
            warnings=[
                *summary.warnings,
                *evaluation.warnings,
                *measured.warnings,
                *left_out_classes(study, scores[seed].classes, evaluators),
            ],
        )
        runs.append(run)
    return ArmRecord(name=name, parameters=parameters, nfe=nfe, runs=runs, diverged=diverged)


def final_losses(run_dir: Path) -> dict[str, float]:
    """The mean loss of every phase over the last tenth of training."""
    rows = read_metrics(run_dir / "metrics.jsonl")
    rows = [row for row in rows if any(key.startswith("loss/") for key in row)]
    late = rows[-max(1, len(rows) // LATE) :]
    keys = dict.fromkeys(key for row in late for key in row if key.startswith("loss/"))
    means = {}
    for key in keys:
        values = [row[key] for row in late if key in row]
        means[key] = sum(values) / len(values)
    return means


def _verdicts(
    scores: Mapping[str, Mapping[int, StoredScores]], columns: Sequence[MetricColumn]
) -> list[Verdict]:
    """A verdict for every pair of arms and metric, corrected for the number of comparisons."""
    by_metric = {
        arm: {
            column.key: [r.scores[column.key] for r in runs.values() if column.key in r.scores]
            for column in columns
        }
        for arm, runs in scores.items()
    }
    return verdicts(by_metric, {column.key: column.better for column in columns})


def _compared(study: Study, directory: Path) -> list[Comparison]:
    """Comparisons of pairs of arms, image by image, for every training seed of both."""
    found = []
    for a, b in study.compare:
        for seed in study.seeds:
            left, right = (run_dir_of(directory, arm, seed) / COMPARED for arm in (a, b))
            if left.exists() and right.exists():
                picture = directory / f"compared-{a}-{b}-seed-{seed}.png"
                pixels, features = map(recorded, compare_runs(left, right, picture))
                found.append(
                    Comparison(
                        a=a, b=b, seed=seed, picture=picture.name, pixels=pixels, features=features
                    )
                )
    return found


def _commands(study: Study, arms: Sequence[ArmRecord]) -> list[str]:
    """Commands that reproduce the whole study and each arm alone."""
    commands = [f"pip install sfumato=={version('sfumato')}"]
    commands.append(study.command or f"sfumato study {study.name}")
    commands.append("# one arm alone, in the directory of the study:")
    for arm in arms:
        config = f"{arm.runs[0].directory}/config.json"
        commands.append(f"sfumato train {shlex.quote(config)} --output again")
    return commands


def front(points: Sequence[FrontPoint], lower_is_better: bool = True) -> list[FrontPoint]:
    """The points by rising cost; marks the Pareto-optimal ones."""
    sign = 1 if lower_is_better else -1
    ordered = sorted(points, key=lambda p: (p.cost, sign * p.quality))
    best, marked = float("inf"), []
    for point in ordered:
        better = sign * point.quality < best
        best = min(best, sign * point.quality)
        marked.append(point.model_copy(update={"on_front": better}))
    return marked


def fronts(arms: Sequence[ArmRecord], directory: Path, metric: str) -> Fronts:
    """Quality against training seconds, NFE and sampling seconds, by the first metric.

    Training has a point for each finished arm, and those scored during training
    (`training.score_images`); NFE has those of `measure.sampler_steps` too.
    """
    lower = {found.key: found.better for found in METRICS}[metric] == "lower"
    training, nfe, drawing = [], [], []
    for arm in arms:
        scored = [(run, score) for run in arm.runs if (score := run.scores.get(metric))]
        if not scored:
            continue
        runs, quality = [run for run, _ in scored], [score.value for _, score in scored]
        training.append(_mean(arm.name, [run.train_seconds for run in runs], quality))
        training += _during_training(arm.name, [directory / r.directory for r in runs], metric)
        nfe.append(_mean(arm.name, [arm.nfe] * len(runs), quality))
        drawing.append(_mean(arm.name, [run.sample_seconds for run in runs], quality))
        if metric == "frechet_distance":
            for points in _shared([{p.steps: p for p in run.sampler_curve} for run in runs]):
                value = [point.frechet_distance.value for point in points]
                nfe.append(_mean(arm.name, [point.nfe for point in points], value))
                drawing.append(_mean(arm.name, [point.sample_seconds for point in points], value))
    return Fronts(
        metric=metric,
        train_seconds=front(training, lower),
        nfe=front(nfe, lower),
        sample_seconds=front(drawing, lower),
    )


def _mean(arm: str, costs: Sequence[float | None], qualities: Sequence[float]) -> FrontPoint:
    known = [cost for cost in costs if cost is not None]
    return FrontPoint(
        arm=arm, cost=sum(known) / len(known), quality=sum(qualities) / len(qualities)
    )


def _shared(curves: Sequence[dict[K, T]]) -> list[list[T]]:
    """The points that all curves have, by rising key."""
    keys = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return [[curve[key] for curve in curves] for key in sorted(keys)]


def _during_training(arm: str, run_dirs: Sequence[Path], metric: str) -> list[FrontPoint]:
    """Quality measured during training, where all seeds have it."""
    logs = [read_metrics(run_dir / "metrics.jsonl") for run_dir in run_dirs]
    curves = [
        {row["images"]: row for row in rows if metric in row and "seconds" in row} for rows in logs
    ]
    return [
        _mean(arm, [row["seconds"] for row in rows], [row[metric] for row in rows])
        for rows in _shared(curves)
    ]
