"""The networks of an experiment, module by module."""

from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core.images import Batch
from sfumato.core.model import GenerativeModel
from sfumato.core.noise import TrainingNoise
from sfumato.data.catalogue import load
from sfumato.run.experiment import Experiment
from sfumato.run.train import build_model


def describe(experiment: Experiment, depth: int) -> list[dict[str, Any]]:
    """One row for each module down to `depth`: parameters, buffers, output shape and dtype.

    The shapes are those of one training step on a batch of 2.
    """
    splits = load(experiment.data)
    model = build_model(experiment, splits.train)
    assert isinstance(model, GenerativeModel)
    outputs: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs[module] = output

    named = [(n, m) for n, m in model.named_modules() if n and n.count(".") < depth]
    hooks = [module.register_forward_hook(note) for _, module in named]
    images = torch.zeros(2, *model.image_shape)
    labels = torch.zeros(2, dtype=torch.int64) if model.num_classes else None
    for phase in model.phases():
        phase.loss(Batch(images, labels), TrainingNoise("info", global_batch=2))
    for hook in hooks:
        hook.remove()
    rows = [_row(name, module, outputs.get(module)) for name, module in named]
    rows.append(_row("(total)", model, None))
    return rows


def _row(name: str, module: nn.Module, output: Tensor | None) -> dict[str, Any]:
    return {
        "module": name,
        "type": type(module).__name__,
        "output": "" if output is None else "x".join(map(str, output.shape[1:])),
        "dtype": "" if output is None else str(output.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in module.parameters()),
        "buffers": sum(b.numel() for b in module.buffers()),
    }
