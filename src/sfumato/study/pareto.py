"""Pareto fronts: the best quality that each amount of time or of network evaluations buys."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sfumato.metrics import METRICS
from sfumato.study.history import read_rows


@dataclass(frozen=True)
class Point:
    """What an arm reaches at a cost; the mean over its training seeds.

    Args:
        arm: its name.
        cost: seconds of training, evaluations of the network, or seconds of sampling.
        quality: the metric.
        on_front: no other point is as good at no more cost.
    """

    arm: str
    cost: float
    quality: float
    on_front: bool = False


def front(points: Sequence[Point], lower_is_better: bool = True) -> list[Point]:
    """The points by rising cost, with those marked that no other dominates."""
    sign = 1 if lower_is_better else -1
    ordered = sorted(points, key=lambda p: (p.cost, sign * p.quality))
    best, marked = float("inf"), []
    for point in ordered:
        better = sign * point.quality < best
        best = min(best, sign * point.quality)
        marked.append(Point(point.arm, point.cost, point.quality, better))
    return marked


def fronts(arms: Sequence[Mapping[str, Any]], directory: Path, metric: str) -> dict[str, Any]:
    """Quality against training seconds, NFE and sampling seconds, by the first metric.

    The points of training are those of the finished arms and those measured on the way
    (`training.score_images`); the points of NFE are those of `measure.sampler_steps` too.
    """
    lower = {found.key: found.better for found in METRICS}[metric] == "lower"
    training, nfe, drawing = [], [], []
    for arm in arms:
        runs = [run for run in arm["runs"] if metric in run["scores"]]
        if not runs:
            continue
        quality = [run["scores"][metric]["value"] for run in runs]
        name = arm["name"]
        training.append(_mean(name, [run["train_seconds"] for run in runs], quality))
        training += _on_the_way(name, [directory / run["directory"] for run in runs], metric)
        nfe.append(_mean(name, [arm["nfe"]] * len(runs), quality))
        drawing.append(_mean(name, [run["sample_seconds"] for run in runs], quality))
        if metric == "frechet_distance":
            for points in _alike([run.get("sampler_curve", []) for run in runs], "steps"):
                value = [point["frechet_distance"]["value"] for point in points]
                nfe.append(_mean(name, [point["nfe"] for point in points], value))
                drawing.append(_mean(name, [point["sample_seconds"] for point in points], value))
    found = {"train_seconds": training, "nfe": nfe, "sample_seconds": drawing}
    return {"metric": metric} | {
        key: [asdict(point) for point in front(points, lower)] for key, points in found.items()
    }


def _mean(arm: str, costs: Sequence[float], qualities: Sequence[float]) -> Point:
    return Point(arm, sum(costs) / len(costs), sum(qualities) / len(qualities))


def _alike(curves: Sequence[Sequence[Mapping[str, Any]]], key: str) -> list[list[Any]]:
    """The points that all curves have, by the value of `key`."""
    by_key = [{point[key]: point for point in curve} for curve in curves]
    shared = set.intersection(*(set(points) for points in by_key)) if by_key else set()
    return [[points[value] for points in by_key] for value in sorted(shared)]


def _on_the_way(arm: str, run_dirs: Sequence[Path], metric: str) -> list[Point]:
    """Quality measured during training, where all seeds have it."""
    logs = [read_rows(run_dir) for run_dir in run_dirs]
    curves = [[row for row in rows if metric in row and "seconds" in row] for rows in logs]
    return [
        _mean(arm, [row["seconds"] for row in rows], [row[metric] for row in rows])
        for rows in _alike(curves, "images")
    ]
