"""The files of a study or a run, read and checked. Only what a report cannot do without is
required: everything else may be missing.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sfumato.core.errors import RunError
from sfumato.report.records import Results


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
