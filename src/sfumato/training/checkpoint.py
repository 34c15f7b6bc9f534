"""Checkpoints: the whole state of a run in safetensors, with a JSON file that vouches for it.

`<images>.safetensors` is written and renamed first, `<images>.json` second: a checkpoint exists
once its JSON does. The JSON carries the SHA-256 of the tensors, so that a torn or corrupted file
is noticed before anything of it is used. Nothing in either file is ever executed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.core.errors import RunError
from sfumato.core.files import write_json
from sfumato.core.tensors import explained, read_tensors, write_tensors

FORMAT = 1
LARGEST_RECORD = 2**20
"""Characters of a JSON file that are read: more is no record of ours."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and the plain values that go with them."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    directory: Path, images: int, checkpoint: Checkpoint, keep: int, spare: int | None = None
) -> Path:
    """Write a checkpoint at position `images`, then delete all but the newest `keep`.

    Args:
        spare: the position of one that is kept whatever its age: the best.
    Raises:
        RunError: it cannot be written; those that exist stay as they are.
    """
    path = directory / f"{images:012d}.safetensors"
    with explained(path):
        directory.mkdir(exist_ok=True)
        write_tensors(path, checkpoint.tensors)
        record = {"format": FORMAT, "sha256": _sha256(path), "state": checkpoint.state}
        write_json(path.with_suffix(".json"), record)
    _delete_old(directory, keep, spare)
    return path


def list_checkpoints(directory: Path) -> list[Path]:
    """The tensor files of the complete checkpoints, newest first."""
    records = directory.glob("*.json") if directory.is_dir() else ()
    named = (path.with_suffix(".safetensors") for path in records if path.stem.isdecimal())
    return sorted(named, key=lambda path: int(path.stem), reverse=True)


def tidy(directory: Path, images: int, keep: int, spare: int | None = None) -> None:
    """Delete what is newer than position `images`, more than is to be kept, or half a checkpoint.

    Newer ones are unusable (or they would have been loaded), and must not be counted among those
    to keep; the rest is what a process that was killed leaves behind.
    """
    for path in list_checkpoints(directory):
        if int(path.stem) > images:
            _delete(path)
    complete = set(list_checkpoints(directory))
    for path in directory.glob("*.safetensors"):
        if path not in complete:
            path.unlink()
    _delete_old(directory, keep, spare)


def _delete_old(directory: Path, keep: int, spare: int | None) -> None:
    for path in list_checkpoints(directory)[keep:]:
        if int(path.stem) != spare:
            _delete(path)


def _delete(path: Path) -> None:
    path.with_suffix(".json").unlink()  # first what makes it a checkpoint
    path.unlink(missing_ok=True)


def load_newest(directory: Path) -> tuple[Checkpoint, list[str]]:
    """The newest sound checkpoint, and a warning for each newer one that is not.

    Raises:
        RunError: there is none, or none is sound.
    """
    warnings: list[str] = []
    for path in list_checkpoints(directory):
        try:
            return load_checkpoint(path), warnings
        except RunError as error:
            warnings.append(f"{error}; falling back to the one before")
    if warnings:
        raise RunError(
            f"no usable checkpoint in {directory}: "
            + "; ".join(w.split(";")[0] for w in warnings)
            + "; start again in a new run directory"
        )
    raise RunError(f"there is no checkpoint in {directory}; start the run without --resume")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        RunError: it is missing, truncated or altered.
    """
    try:
        with path.with_suffix(".json").open(encoding="utf-8") as file:
            record = json.loads(file.read(LARGEST_RECORD))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"cannot read the record of checkpoint {path.name}: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RunError(f"checkpoint {path.name} is not of format {FORMAT}")
    if not path.is_file() or _sha256(path) != record.get("sha256"):
        raise RunError(f"checkpoint {path} is missing, truncated or altered (its SHA-256 differs)")
    if not isinstance(record.get("state"), dict):
        raise RunError(f"the record of checkpoint {path.name} holds no state")
    return Checkpoint(read_tensors(path), record["state"])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
