"""A run killed by SIGKILL at any moment, and resumed, equals one that was never interrupted."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sfumato.experiment.experiment import Experiment
from sfumato.runs.directory import read_metrics
from support.experiments import DIFFUSION, experiment
from support.processes import (
    finished,
    record_points,
    started,
    train_and_hang,
    train_in,
    train_until,
)

TIMES = ("seconds", "images_per_second")


def config() -> Experiment:
    """Rows, pictures and checkpoints at positions that do not coincide; best and snapshots too."""
    return experiment(
        DIFFUSION,
        log_images=48,
        sample_images=64,
        checkpoint_images=32,
        snapshot_images=64,
        averages=[
            {"kind": "exponential", "half_life_images": 50.0},
            {"kind": "power", "relative_std": 0.05},
            {"kind": "power", "relative_std": 0.1},
        ],
        rate={"kind": "cosine"},
    )


class Whole:
    """An uninterrupted run, and what its fault points are."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "whole"
        assert finished(record_points, config(), self.run_dir, folder / "points") == 0
        self.points = [line.split(" ", 1) for line in (folder / "points").read_text().splitlines()]

    def number(self, name: str, ending: str, which: int = 0) -> int:
        """The number of a fault point, by its name and the end of its file's name."""
        found = [
            number
            for number, (point, file) in enumerate(self.points, start=1)
            if point == name and file.replace(".partial", "").rstrip(".0123456789").endswith(ending)
        ]
        return found[which]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


def contents(run_dir: Path) -> dict[str, object]:
    """All that must be equal: every file but times, versions and the lock."""
    found: dict[str, object] = {}
    for path in sorted(run_dir.rglob("*")):
        name = str(path.relative_to(run_dir))
        if path.is_dir() or name in ("lock", "environment.json"):
            continue
        if path.suffix == ".safetensors":
            found[name] = {k: t.numpy().tobytes() for k, t in load_file(path).items()}
        elif name == "metrics.jsonl":
            rows = read_metrics(path)
            found[name] = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
        elif path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text()))
        else:
            found[name] = path.read_bytes()
    return found


def timeless(record: dict[str, object]) -> dict[str, object]:
    """A JSON record without what the clock decides."""
    clocked = ("seconds", "train_seconds", "row_seconds", "images_per_second")
    return {
        key: timeless(value) if isinstance(value, dict) else value
        for key, value in record.items()
        if key not in clocked
    }


def check_resumed(run_dir: Path, whole: Whole) -> None:
    """Resume the run that was killed, and compare it with the uninterrupted one."""
    assert finished(train_in, config(), run_dir, True) == 0
    expected, found = contents(whole.run_dir), contents(run_dir)
    assert found.keys() == expected.keys()  # no orphan, no partial file
    for name in expected:
        assert found[name] == expected[name], name


@pytest.mark.parametrize(
    ("point", "ending", "which", "torn"),
    [
        ("write", "64.safetensors", 0, 0.5),  # a torn checkpoint
        ("rename", "96.json", 0, None),  # tensors in place, but nothing that vouches for them
        ("append", "metrics.jsonl", 1, 0.7),  # a torn row of the log
    ],
)
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    whole: Whole, tmp_path: Path, point: str, ending: str, which: int, torn: float | None
) -> None:
    number = whole.number(point, ending, which)
    code = finished(train_until, config(), tmp_path / "run", number, torn)
    assert code == -signal.SIGKILL
    check_resumed(tmp_path / "run", whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_even_a_long_computation_at_once(
    whole: Whole, tmp_path: Path, number: signal.Signals
) -> None:
    process = started(train_and_hang, config(), tmp_path / "run", tmp_path / "marker")
    assert process.pid is not None
    while not (tmp_path / "marker").exists():
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(0.5)
    assert process.exitcode is None  # one is a request
    os.kill(process.pid, number)
    process.join(10)
    assert process.exitcode == 128 + number
    check_resumed(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_run_killed_at_every_fault_point_resumes(whole: Whole, tmp_path: Path) -> None:
    """Fifty of them at least, spread over all that a run writes."""
    numbers = range(1, len(whole.points) + 1)
    step = max(1, len(whole.points) // 50)
    chosen = list(numbers[::step])
    assert len(chosen) >= 50
    kinds = [whole.points[number - 1][0] for number in chosen]
    assert all(kinds.count(kind) >= 3 for kind in ("write", "rename", "append"))
    for number in chosen:
        run_dir = tmp_path / str(number)
        torn = random.Random(number).random()
        assert finished(train_until, config(), run_dir, number, torn) == -signal.SIGKILL
        check_resumed(run_dir, whole)


@pytest.mark.slow
def test_a_run_killed_again_and_again_at_any_moment_resumes(whole: Whole, tmp_path: Path) -> None:
    """Moments by the clock: inside steps, samples and writes, several in one run."""
    chance = random.Random(0)
    run_dir, kills = tmp_path / "run", 0
    while kills < 10:
        process = started(train_in, config(), run_dir, True)
        time.sleep(chance.uniform(0.05, 0.6))
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:  # it came to the end: the next one starts again
            check_resumed(run_dir, whole)
            run_dir = tmp_path / f"run-{kills}"
    check_resumed(run_dir, whole)


def test_the_states_compared_are_not_empty(whole: Whole) -> None:
    """Guards the comparison above: weights, averages, optimizer, log, pictures, snapshots."""
    found = contents(whole.run_dir)
    newest = load_file(whole.run_dir / "checkpoints" / "000000000128.safetensors")
    groups = {name.split("/")[0] for name in newest}
    assert groups == {"model", "average", "optimizer", "means"}
    assert not torch.equal(newest["average/0/" + "network.stem.weight"], torch.zeros(()))
    assert len(read_metrics(whole.run_dir / "metrics.jsonl")) == 3
    assert sum(name.startswith("samples/") for name in found) == 3
    assert sum(name.startswith("snapshots/") for name in found) == 4
