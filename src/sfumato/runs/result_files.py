"""Reading and writing the records of `runs.results`, with messages that name what is wrong."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sfumato.core.errors import RunError
from sfumato.core.files import write_json
from sfumato.runs.directory import excerpt, read_metrics, read_object
from sfumato.runs.results import (
    VERSION,
    ArmRecord,
    EvaluationRecord,
    Record,
    Results,
    RunRecord,
    SummaryRecord,
)

R = TypeVar("R", bound=Record)


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, atomically."""
    write_json(path, to_plain(record))


def to_plain(record: Record) -> dict[str, Any]:
    """A record as plain values, as they are written to JSON."""
    return record.model_dump()


def read_record(kind: type[R], path: Path) -> R:
    """A record from a JSON file.

    Raises:
        RunError: the file is unreadable or holds something else; names the first bad key.
    """
    return to_record(kind, read_object(path), str(path))


def to_record(kind: type[R], content: Mapping[str, Any], source: str) -> R:
    """A record from plain values.

    Args:
        source: where they came from; begins the message.
    Raises:
        RunError: names the first bad key.
    """
    try:
        # JSON mode: strict components accept an array for a tuple.
        return kind.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if key == "version":
            raise RunError(
                f"{source} was written by a newer version of Sfumato (schema {first['input']}, "
                f"this version knows {VERSION}); upgrade with pip install -U sfumato"
            ) from None
        if first["type"] == "missing":
            wrong = f"key {key!r} is missing"
        else:
            wrong = f"{key!r} is {excerpt(first['input'])}: {first['msg'].lower()}"
        raise RunError(
            f"{source}: {wrong}; repeat the study or the evaluation to write it again"
        ) from None


def read_results(directory: Path) -> Results:
    """The results of a study directory, or of a run directory as results of a single arm.

    Raises:
        RunError: the directory is neither, or a file in it cannot be understood.
    """
    path = directory / "results.json"
    if path.exists():
        results = read_record(Results, path)
        if not results.arms:
            raise RunError(
                f"{path} has no arm with results; run `sfumato study` until a run is finished"
            )
        return results
    if any((directory / name).exists() for name in ("config.json", "summary.json")):
        return _of_run(directory)
    raise RunError(
        f"{directory} is neither a study nor a run: it has no results.json, config.json or "
        "summary.json; give the directory that `sfumato study` or `sfumato train` wrote"
    )


def _of_run(directory: Path) -> Results:
    """What a run directory holds so far, as results of a single arm."""
    names = ("config", "environment", "data")
    paths = [directory / f"{name}.json" for name in names]
    config, machine, data = (read_object(path) if path.exists() else {} for path in paths)
    summary = _read_if_there(SummaryRecord, directory / "summary.json")
    evaluation = _read_if_there(EvaluationRecord, directory / "evaluation.json")
    last = (read_metrics(directory / "metrics.jsonl") or [{}])[-1]
    training = config.get("training") or {}
    name = str(config.get("name") or directory.resolve().name)
    limits = {key: training.get(f"budget_{key}") for key in ("images", "steps", "seconds")}
    seen, seconds = summary.images_seen, summary.train_seconds
    run = RunRecord(
        seed=training.get("seed", 0),
        directory=".",
        images_seen=last.get("images") if seen is None else seen,
        train_seconds=last.get("seconds") if seconds is None else seconds,
        images_per_second=summary.images_per_second,
        training_parameters=summary.parameters,
        sample_seconds=evaluation.sample_seconds,
        scores=dict(evaluation.scores),
        classes=evaluation.classes,
        class_floors=evaluation.class_floors,
        copies=evaluation.copies,
        grid_rows=evaluation.grid_rows,
        warnings=[*summary.warnings, *evaluation.warnings],
    )
    arm = ArmRecord(
        name=name,
        parameters=summary.sampled_parameters or summary.parameters,
        nfe=evaluation.nfe or summary.nfe,
        runs=[run],
    )
    return Results(
        name=name,
        machine=machine,
        data=data or config.get("data") or {},
        budget={key: limit for key, limit in limits.items() if limit is not None},
        protocol={**evaluation.protocol, **evaluation.sampling},
        metrics=evaluation.metrics,
        arms=[arm],
    )


def _read_if_there(kind: type[R], path: Path) -> R:
    return read_record(kind, path) if path.exists() else kind()
