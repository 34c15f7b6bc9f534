"""The files of a study or a run, read and checked. Only what a report cannot do without is
required: everything else may be missing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from sfumato.core.errors import RunError
from sfumato.report.records import (
    Comparison,
    Failure,
    Fronts,
    Published,
    Record,
    SamplerPoint,
)
from sfumato.report.records import Estimate as Estimate


class Metric(Record):
    """A column of scores; `floor` is the same metric on real images."""

    key: str
    label: str
    better: Literal["lower", "higher"]
    floor: Estimate | None = None


class RunRecord(Record):
    """One training run of an arm; `directory` is relative to that of the study."""

    seed: int = 0
    directory: str
    images_seen: int | None = None
    train_seconds: float | None = None
    sample_seconds: float | None = None
    images_per_second: float | None = None
    training_parameters: int | None = None
    scores: dict[str, Estimate | None] = {}
    classes: dict[str, dict[str, Estimate]] = {}
    class_floors: dict[str, dict[str, Estimate]] = {}
    copies: dict[str, Any] | None = None
    sampler_curve: list[SamplerPoint] = []
    warnings: list[str] = []


class Arm(Record):
    """What is compared: one configuration, trained once for each seed."""

    name: str
    parameters: int | None = None
    nfe: int | None = None
    config: dict[str, Any] = {}
    runs: list[RunRecord] = []

    def values(self, metric: str) -> list[float]:
        """The finite scores of the runs that have one."""
        scores = [run.scores.get(metric) for run in self.runs]
        return [score.value for score in scores if score and math.isfinite(score.value)]

    def mean(self, metric: str) -> float | None:
        """The mean score over the training seeds."""
        values = self.values(metric)
        return sum(values) / len(values) if values else None


class Verdict(Record):
    """Whether arm `a` is better or worse than arm `b`, or neither is shown."""

    metric: str
    a: str
    b: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Literal["better", "worse", "not shown"]
    text: str = ""


class Results(Record):
    """Everything that a report shows, apart from pictures and training histories."""

    name: str
    title: str = ""
    description: str = ""
    created: str = ""
    seconds: float | None = None
    machine: dict[str, Any] = {}
    data: dict[str, Any] = {}
    budget: dict[str, Any] = {}
    factors: list[str] = []
    seeds: list[int] = []
    protocol: dict[str, Any] = {}
    metrics: list[Metric] = []
    arms: list[Arm] = Field(min_length=1)
    verdicts: list[Verdict] = []
    preset: str = ""
    hours: float | None = None
    shrunk: list[str] = []
    diverged: list[Failure] = []
    waiting: int = 0
    fronts: Fronts | None = None
    compared: list[Comparison] = []
    published: Published | None = None
    commands: list[str] = []

    def metric(self, key: str | None) -> Metric | None:
        """The metric of that key, if there is one."""
        return next((metric for metric in self.metrics if metric.key == key), None)

    def arm(self, name: str | None) -> Arm | None:
        """The arm of that name, if it has any results."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def colour(self, arm: str) -> int:
        """The place of an arm, which decides its colour."""
        return next((k for k, found in enumerate(self.arms) if found.name == arm), 0)

    @property
    def class_names(self) -> list[str]:
        """The classes of the data, empty when it has none."""
        return [str(name) for name in self.data.get("class_names") or []]


def load(directory: Path) -> Results:
    """The results of a study directory or of a single run directory.

    Raises:
        RunError: the directory is neither, or a file in it cannot be understood.
    """
    path = directory / "results.json"
    is_run = any((directory / name).exists() for name in ("config.json", "summary.json"))
    if path.exists():
        return validated(read_json(path), str(path))
    if is_run:
        return validated(_of_run(directory), str(directory))
    raise RunError(
        f"{directory} is neither a study nor a run: it has no results.json, config.json or "
        "summary.json; give the directory that `sfumato study` or `sfumato train` wrote"
    )


def validated(content: Mapping[str, Any], source: str) -> Results:
    """Results from plain values. Raises RunError, which names `source` and the first bad key."""
    try:
        return Results.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            wrong = f"key {key!r} is missing"
        else:
            wrong = f"{key!r} is {_short(first['input'])}: {first['msg'].lower()}"
        raise RunError(
            f"{source}: {wrong}; run the study or the evaluation again to write it anew"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises RunError when the file is unreadable or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    except ValueError as error:
        raise RunError(
            f"{path} is not valid JSON ({error}); it may be cut short: "
            "run the command that wrote it again"
        ) from None
    if not isinstance(content, dict):
        raise RunError(
            f"{path} holds {_short(content)} where a JSON object belongs; "
            "run the command that wrote it again"
        )
    return content


def read_history(run_directory: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; lines cut short by an interruption are skipped."""
    path = run_directory / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def of_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation of a run as results of a single arm.

    Args:
        evaluation: "metrics" and "protocol" as in results.json, and what a run has there:
            "scores", "warnings", and so on; all of it may be missing.
    """
    run = {"directory": ".", **evaluation}
    name = str(evaluation.get("name", "run"))
    return {**evaluation, "name": name, "arms": [{**evaluation, "name": name, "runs": [run]}]}


def _of_run(directory: Path) -> dict[str, Any]:
    """Everything that a run directory tells, as results of a single arm."""
    names = ("config", "summary", "environment", "data", "evaluation")
    paths = [directory / f"{name}.json" for name in names]
    config, summary, environment, data, evaluation = (
        read_json(path) if path.exists() else {} for path in paths
    )
    last = (read_history(directory) or [{}])[-1]
    training = config.get("training") or {}
    name = str(config.get("name") or directory.resolve().name)
    budget = {
        key: training[f"budget_{key}"]
        for key in ("images", "steps", "seconds")
        if training.get(f"budget_{key}") is not None
    }
    known = {
        "name": name,
        "seed": training.get("seed", 0),
        "images_seen": last.get("images"),
        "train_seconds": last.get("seconds"),
        "machine": environment,
        "data": data or config.get("data") or {},
        "budget": budget,
        **summary,
        **evaluation,
    }
    if "sampled_parameters" in summary:  # as in a study: those that a sample needs
        known["parameters"] = summary["sampled_parameters"]
        known["training_parameters"] = summary.get("parameters")
    known["protocol"] = {**evaluation.get("protocol", {}), **evaluation.get("sampling", {})}
    known["warnings"] = [*summary.get("warnings", []), *evaluation.get("warnings", [])]
    return of_evaluation(known)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys and text, for tables."""
    flat: dict[str, str] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            flat[f"{prefix}{key}"] = ", ".join(str(item) for item in value)
        elif isinstance(value, float):
            flat[f"{prefix}{key}"] = f"{value:.12g}"  # 3 * 1e-4 is 0.0003 to people
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
