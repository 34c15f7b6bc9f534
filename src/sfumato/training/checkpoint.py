"""Checkpoints: the whole state of a run in safetensors, with a JSON file that vouches for it.

`<images>.safetensors` is written and renamed first, `<images>.json` second: a checkpoint exists
once its JSON does. The JSON carries the SHA-256 of the tensors, so that a torn or corrupted file
is noticed before anything of it is used. Nothing in either file is ever executed.

The tensors are model/<name>, average/<number>/<name>, optimizer/<number>/<parameter>/<name> and
means/<loss>. The JSON holds the `TrainingState`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.core import distributed
from sfumato.core.config import to_mapping
from sfumato.core.distributed import gathered, sharded_like
from sfumato.core.errors import RunError
from sfumato.core.files import write_json
from sfumato.core.tensors import check_tensors, explained, read_tensors, write_tensors
from sfumato.training.averages import weights_in_use
from sfumato.training.doctor import Diverged, Doctor
from sfumato.training.loggers import RunLog
from sfumato.training.trainer import Trainer
from sfumato.training.training_state import TrainingState, read_state

FORMAT = 1
LARGEST_RECORD = 2**20
"""Characters of a JSON file that are read: a longer one is no record of a checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and the plain values that go with them."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    directory: Path, images: int, checkpoint: Checkpoint, keep: int, spare: int | None = None
) -> Path:
    """Write a checkpoint at position `images` (images seen), then delete all but the newest `keep`.

    Args:
        spare: the position of the best, which is kept at any age.
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
    """Delete checkpoints newer than position `images`, incomplete ones, and all but `keep`.

    Newer ones are unusable (or they would have been loaded), and must not count among those to
    keep. A process that was killed leaves incomplete ones.
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
    """The newest sound checkpoint, and a warning for each newer one that is damaged.

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


class Saving:
    """The hook that writes checkpoints and weights, and goes back to a checkpoint.

    In a process group all processes must call its methods; the main one reads and writes.

    Args:
        every: images between two checkpoints.
        run_dir: the run directory.
        doctor: judges whether a state is worth keeping.
        run_log: its rows are on the disk before a checkpoint counts on them.
        log: receives messages for the user.
    """

    def __init__(
        self, every: int, run_dir: Path, doctor: Doctor, run_log: RunLog, log: Callable[[str], None]
    ) -> None:
        self.every = every
        self.folder = run_dir / "checkpoints"
        self._run_dir, self._doctor, self._run_log, self._log = run_dir, doctor, run_log, log
        self._saved_at: int | None = None

    def __call__(self, trainer: Trainer) -> None:
        """Write a checkpoint, unless there is one of this position.

        Raises:
            Diverged: the state is not worth keeping.
        """
        state = trainer.state
        if self._saved_at == state.images:
            return
        self._doctor.check_losses(trainer.means.means())
        if not trainer.is_finite():
            raise Diverged("weights are no longer numbers")
        tensors = trainer_tensors(trainer)

        def write() -> None:
            self._run_log.sync()
            state.loss_scale = trainer.loss_scale
            checkpoint = Checkpoint(tensors, to_mapping(state))
            best = state.best.images if state.best else None
            keep = trainer.config.keep_checkpoints
            save_checkpoint(self.folder, state.images, checkpoint, keep, best)

        distributed.on_main(write)
        self._saved_at = state.images

    def restore(self, trainer: Trainer) -> bool:
        """Go back to the newest sound checkpoint; False when there is none at all.

        Raises:
            RunError: there are checkpoints, but none is sound and of this configuration.
        """
        loaded: dict[str, Tensor] = {}

        def load() -> TrainingState | None:
            saved = None
            if list_checkpoints(self.folder):
                checkpoint, warnings = load_newest(self.folder)
                for warning in warnings:
                    self._log(warning)
                loaded.update(checkpoint.tensors)
                saved = read_state(checkpoint.state, f"the checkpoint in {self.folder}")
            best = saved.best.images if saved and saved.best else None
            keep = trainer.config.keep_checkpoints
            tidy(self.folder, saved.images if saved else 0, keep, best)
            return saved

        saved = distributed.on_main(load)
        if saved is None:
            return False
        tensors = distributed.from_main(loaded)
        restore_tensors(trainer, tensors, f"the checkpoint in {self.folder}")
        trainer.state.restore(saved)
        trainer.loss_scale = saved.loss_scale
        self._saved_at = saved.images
        return True

    def write_weights(self, trainer: Trainer, name: str) -> None:
        """Write the weights that samples are drawn with into the run directory."""
        with weights_in_use(trainer.averages):
            tensors = gathered(trainer.model.state_dict())
            distributed.on_main(lambda: write_tensors(self._run_dir / name, tensors))


def trainer_tensors(trainer: Trainer) -> dict[str, Tensor]:
    """Weights, optimizers, averages, loss means. All processes must call this."""
    tensors = {f"model/{name}": t for name, t in trainer.model.state_dict().items()}
    for number, average in enumerate(trainer.averages):
        tensors |= {f"average/{number}/{name}": t for name, t in average.tensors.items()}
    for number, optimizer in enumerate(trainer.optimizers.values()):
        for parameter, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    name = f"optimizer/{number}/{parameter}/{key}"
                    tensors[name] = torch.as_tensor(value)
    trainer.means.gather()
    tensors |= {f"means/{name}": t for name, t in trainer.means.tensors().items()}
    return gathered(tensors)


def restore_tensors(trainer: Trainer, tensors: Mapping[str, Tensor], source: str) -> None:
    """Continue from the whole tensors of a checkpoint, in every process.

    Raises:
        RunError: they are of another configuration.
    """
    groups = _grouped(trainer, tensors, source)
    model = trainer.model.state_dict()
    check_tensors(model, groups.pop("model", {}), source)
    trainer.model.load_state_dict(
        {name: sharded_like(tensors[f"model/{name}"], t) for name, t in model.items()}
    )
    trainer.means.load(groups.pop("means", {}), source)
    for number, average in enumerate(trainer.averages):
        average.load(groups.pop(f"average/{number}", {}), source)
    for number, optimizer in enumerate(trainer.optimizers.values()):
        saved = groups.pop(f"optimizer/{number}", {})
        names = trainer.config.optimizer.state_names
        state = _optimizer_state(optimizer, saved, names, source)
        param_groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": param_groups})


def _grouped(
    trainer: Trainer, tensors: Mapping[str, Tensor], source: str
) -> dict[str, dict[str, Tensor]]:
    """The tensors by the part of the trainer they belong to."""
    known = {"model", "means"}
    known |= {f"average/{number}" for number in range(len(trainer.averages))}
    known |= {f"optimizer/{number}" for number in range(len(trainer.optimizers))}
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, key = name.partition("/")
        if group not in ("model", "means"):
            which, _, key = key.partition("/")
            group = f"{group}/{which}"
        if group not in known:
            raise RunError(
                f"tensor {name!r} in {source} belongs to no part of this run; "
                "it is of another configuration"
            )
        groups.setdefault(group, {})[key] = tensor
    return groups


def _optimizer_state(
    optimizer: torch.optim.Optimizer,
    saved: Mapping[str, Tensor],
    names: tuple[str, ...],
    source: str,
) -> dict[int, dict[str, Tensor]]:
    """The state by parameter. A parameter without a gradient so far has no state."""
    parameters = [
        (p, group.get("state_names", names))
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    numbers = {str(number): p for number, (p, _) in enumerate(parameters)}
    found = {name.partition("/")[0] for name in saved}
    if unknown := found - set(numbers):
        raise RunError(
            f"{source} has the optimizer state of a parameter {min(unknown)!r} that the model "
            "does not have; it is of another configuration"
        )
    expected = {
        f"{number}/{name}": torch.zeros(()) if name == "step" else parameter
        for number, (parameter, own_names) in enumerate(parameters)
        if str(number) in found
        for name in own_names
    }
    check_tensors(expected, saved, source)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = _with_layout_of(tensor, numbers[number])
    return state


def _with_layout_of(tensor: Tensor, parameter: Tensor) -> Tensor:
    """In the parameter's memory format: fused optimizers go through memory in one order."""
    if tensor.shape != parameter.shape or hasattr(parameter, "full_tensor"):
        return sharded_like(tensor, parameter)
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
