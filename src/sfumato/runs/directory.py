"""The run directory: the record of a run.

config.json        the resolved experiment
data.json          what the data were: shape, classes, digest, counts
environment.json   versions, machine, commit
performance.json   the performance plan in force, and the plans it was chosen from
metrics.jsonl      one row of numbers every `training.log_images`
samples/           pictures at fixed noise, named by images seen; training.webp animates them
checkpoints/       full state, to resume from
snapshots/         weight averages to reconstruct others from (training.snapshot_images)
tensorboard/       the numbers of metrics.jsonl for TensorBoard
final.safetensors  the weights that samples are drawn with
best.safetensors   the same at the smallest Fréchet distance (training.score_images)
summary.json       parameters, images seen, seconds, warnings
"""

import contextlib
import json
import os
import platform
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sfumato.core.config import changeable, differences, left_open, parse, to_mapping
from sfumato.core.errors import RunError
from sfumato.core.files import partial_files, write_json
from sfumato.data.dataset import Dataset
from sfumato.experiment.experiment import Experiment

LOCK = "lock"
FOLDERS = ("checkpoints", "samples", "snapshots")


def check_new(directory: Path) -> None:
    """Refuse to begin a run in a place that holds anything.

    Raises:
        RunError: it does; a run is never overwritten.
    """
    if directory.exists() and (not directory.is_dir() or not is_blank(directory)):
        raise RunError(
            f"run directory {directory} already exists and is not empty; "
            "continue it with --resume, or choose another with --output"
        )


def is_blank(directory: Path) -> bool:
    """Whether nothing is there but what a run leaves that is killed as it begins."""
    left = {directory / LOCK, directory / "environment.json", *partial_files(directory)}
    return not directory.exists() or set(directory.iterdir()) <= left


def create(directory: Path, experiment: Experiment) -> None:
    """Begin a run in a directory that this process has locked.

    Raises:
        RunError: it holds something already, or cannot be written.
    """
    check_new(directory)
    with _writable(directory):
        write_json(directory / "environment.json", {"id": uuid.uuid4().hex[:12], **environment()})
        write_json(directory / "config.json", to_mapping(experiment))


def clean(directory: Path) -> None:
    """Remove what a process that was killed left half-written. The caller holds the lock."""
    for folder in (directory, *(directory / name for name in FOLDERS)):
        for path in partial_files(folder):
            path.unlink(missing_ok=True)


@contextmanager
def _writable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write run directory {directory}: {error.strerror}; "
            "choose a writable place with --output"
        ) from None


def read_experiment(directory: Path) -> Experiment:
    """The resolved experiment of a run directory.

    Raises:
        RunError: there is no run there.
    """
    return parse(Experiment, read_json(directory, "config.json"), str(directory / "config.json"))


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """One of the JSON files of a run directory.

    Raises:
        RunError: it is missing or not JSON.
    """
    path = directory / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{directory} is not a run directory: it has no {name}; check the path"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} does not hold a JSON object")
    return content


def check_same_experiment(directory: Path, experiment: Experiment, force: bool) -> None:
    """Refuse to resume with a config that would change the steps still to come.

    Raises:
        RunError: names every key that changed, with both values.
    """
    recorded = to_mapping(read_experiment(directory))
    given = to_mapping(experiment)
    for key, open_value in left_open(type(experiment.training)).items():
        if given["training"][key] == open_value:
            given["training"][key] = recorded["training"][key]
    changed = {
        key: values
        for key, values in differences(recorded, given).items()
        if not changeable(Experiment, key, "resume")
    }
    if changed and not force:
        listing = ", ".join(f"{key} ({old!r} -> {new!r})" for key, (old, new) in changed.items())
        raise RunError(
            f"cannot resume {directory}: the config differs from the recorded one in {listing}; "
            "undo the change, start a new run, or pass --force"
        )


def check_same_data(directory: Path, dataset: Dataset, force: bool) -> None:
    """Refuse to resume on other images than the run began with.

    Raises:
        RunError: names what changed.
    """
    if not (directory / "data.json").exists():  # killed before it was written
        return
    changed = differences(read_json(directory, "data.json"), describe(dataset))
    if changed and not force:
        listing = ", ".join(f"{key} ({old!r} -> {new!r})" for key, (old, new) in changed.items())
        raise RunError(
            f"cannot resume {directory}: the training images are no longer those it began with: "
            f"{listing}; bring them back, start a new run, or pass --force"
        )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the run directory: a second process is refused until this one ends, however it ends.

    The directory is made if it does not exist.
    Raises:
        RunError: another process works on it, or it cannot be written.
    """
    with _writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # no advisory locks on this system
        yield
        return
    with contextlib.ExitStack() as stack:
        with _writable(directory):
            file = stack.enter_context((directory / LOCK).open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"another process is working on run directory {directory}; wait for it or stop it"
            ) from None
        yield


def environment() -> dict[str, Any]:
    """Versions, machine and commit."""
    return {
        "sfumato": version("sfumato"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
    }


def run_id(directory: Path) -> str:
    """A name that no other run has, wherever it lies."""
    name = directory.resolve().name
    return "-".join([name, str(read_json(directory, "environment.json").get("id", ""))]).strip("-")


def describe(dataset: Dataset) -> dict[str, Any]:
    """What data.json says: the shape and classes a model is built for, and the content."""
    return {
        "source": dataset.name,
        "train": len(dataset),
        "image_shape": list(dataset.image_shape),
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "digest": dataset.digest,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the source tree that the package runs from, if it is one."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
