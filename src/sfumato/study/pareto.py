"""Pareto fronts: the best quality that each amount of time or of network evaluations buys."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from sfumato.evaluation.evaluator import METRICS
from sfumato.runs.metrics_log import read_metrics
from sfumato.runs.results import ArmRecord, FrontPoint, Fronts

K = TypeVar("K", int, float)
T = TypeVar("T")


def front(points: Sequence[FrontPoint], lower_is_better: bool = True) -> list[FrontPoint]:
    """The points by rising cost, with those marked that no other dominates."""
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
