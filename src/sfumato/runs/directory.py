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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sfumato.core.config import differences
from sfumato.core.errors import RunError
from sfumato.core.files import fault_point, partial_files, write_bytes, write_json

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
    """Whether the directory holds at most what a run leaves that is killed as it begins."""
    left = {directory / LOCK, directory / "environment.json", *partial_files(directory)}
    return not directory.exists() or set(directory.iterdir()) <= left


def create(directory: Path, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Begin a run in a directory that this process has locked.

    Args:
        directory: the run directory.
        config: the resolved experiment, as plain values.
        environment: see `environment`.
    Raises:
        RunError: it holds something already, or cannot be written.
    """
    check_new(directory)
    with _writable(directory):
        write_json(directory / "environment.json", {"id": uuid.uuid4().hex[:12], **environment})
        write_json(directory / "config.json", config)


def clean(directory: Path) -> None:
    """Remove incomplete files of a process that was killed. The caller holds the lock."""
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


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """One of the JSON files of a run directory.

    Raises:
        RunError: it is missing or not JSON.
    """
    path = directory / name
    if not path.exists():
        raise RunError(f"{directory} is not a run directory: it has no {name}; check the path")
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        RunError: the file is missing or unreadable, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"cannot read {path}: {error.strerror}; check the path and its permissions"
        ) from None
    except ValueError as error:
        raise RunError(
            f"{path} is not valid JSON ({error}); it may be cut short: "
            "run the command that wrote it again"
        ) from None
    if not isinstance(content, dict):
        raise RunError(
            f"{path} holds {excerpt(content)} where a JSON object belongs; "
            "run the command that wrote it again"
        )
    return content


def excerpt(value: Any) -> str:
    """A value in at most 60 characters, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_same_data(directory: Path, data: Mapping[str, Any], force: bool) -> None:
    """Refuse to resume on other images than the run began with.

    Args:
        directory: the run directory.
        data: the description of the images now, as in data.json.
        force: accept other images.
    Raises:
        RunError: names what changed.
    """
    if not (directory / "data.json").exists():  # killed before it was written
        return
    changed = differences(read_json(directory, "data.json"), data)
    if changed and not force:
        listing = ", ".join(f"{key} ({old!r} -> {new!r})" for key, (old, new) in changed.items())
        raise RunError(
            f"cannot resume {directory}: the training images are no longer those it began with: "
            f"{listing}; bring them back, start a new run, or pass --force"
        )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock the run directory: a second process is refused until this one ends in any way.

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


def environment(threads: int, gpu: str | None) -> dict[str, Any]:
    """Versions, machine and commit.

    Args:
        threads: that compute on the CPU.
        gpu: the name of the GPU; None without one.
    """
    return {
        "sfumato": version("sfumato"),
        "torch": version("torch"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": gpu,
        "commit": _commit(),
    }


def run_id(directory: Path) -> str:
    """A name that no other run has, in whatever folder."""
    name = directory.resolve().name
    return "-".join([name, str(read_json(directory, "environment.json").get("id", ""))]).strip("-")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the source tree that the package runs from; None outside a repository."""
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


Row = Mapping[str, float]


class MetricsLog:
    """Appends rows to metrics.jsonl, and removes those of steps that will be done again."""

    def __init__(self, path: Path, rows: int) -> None:
        """Open the log and drop all but its first `rows` rows, and any torn last line."""
        self._path = path
        self._file = path.open("a", encoding="utf-8")
        self.truncate(rows)

    def truncate(self, rows: int) -> None:
        """Keep the first `rows` rows."""
        kept = read_metrics(self._path)[:rows]
        write_bytes(self._path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self.rows = len(kept)
        self._file.close()
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        """Append one row."""
        fault_point("append", self._path)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self.rows += 1
        fault_point("appended", self._path)

    def sync(self) -> None:
        """Force the rows to the disk, before a checkpoint depends on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The complete rows of a metrics.jsonl; [] if there is none. A torn last line is left out."""
    rows: list[dict[str, float]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # a line torn by a crash
                break
    return rows
