"""The tensors of a trainer by name, for checkpoints, and back.

model/<name>, average/<number>/<name>, optimizer/<number>/<parameter>/<name>, means/<loss>.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from sfumato.core.errors import RunError
from sfumato.core.tensors import check_tensors
from sfumato.training.shard import spread_like, whole
from sfumato.training.trainer import Trainer


def trainer_tensors(trainer: Trainer) -> dict[str, Tensor]:
    """The whole state: weights, optimizers, averages, loss means. All processes must call this."""
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
    return whole(tensors)


def restore_tensors(trainer: Trainer, tensors: Mapping[str, Tensor], source: str) -> None:
    """Continue from the tensors of a checkpoint, which every process has whole.

    Raises:
        RunError: they are of another configuration.
    """
    groups = _grouped(trainer, tensors, source)
    model = trainer.model.state_dict()
    check_tensors(model, groups.pop("model", {}), source)
    trainer.model.load_state_dict(
        {name: spread_like(tensors[f"model/{name}"], t) for name, t in model.items()}
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
    """The state by parameter. A parameter that never had a gradient has none."""
    parameters = [
        (p, group.get("state_names", names))
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    numbers = {str(number): p for number, (p, _) in enumerate(parameters)}
    found = {name.partition("/")[0] for name in saved}
    if unknown := found - set(numbers):
        raise RunError(
            f"{source} has the optimizer state of a parameter {min(unknown)!r} that the model has "
            "not; it is of another configuration"
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
        state.setdefault(int(number), {})[key] = _laid_out_like(tensor, numbers[number])
    return state


def _laid_out_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """In the parameter's memory format, since fused optimizers go through all in one order."""
    if tensor.shape != parameter.shape or hasattr(parameter, "full_tensor"):
        return spread_like(tensor, parameter)
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
