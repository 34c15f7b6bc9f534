"""The networks of an experiment, module by module: parameters, operations, memory."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from sfumato.core.generative_model import GenerativeModel, Phase, recompute_activations
from sfumato.core.images import Batch
from sfumato.core.noise import TrainingNoise
from sfumato.data.catalogue import form
from sfumato.experiment.experiment import Experiment, build_model
from sfumato.speed.memory import LiveMemory
from sfumato.speed.plan import computing
from sfumato.training.training_config import TrainingConfig, plan_of

SIZES = (2, 4)
"""Batches on which memory is counted; a line through both gives the memory of any batch."""


@dataclass(frozen=True)
class ModuleRow:
    """A module. `output` and `flops` are of one image, in one evaluation of a training step."""

    module: str
    type: str
    output: str
    dtype: str
    parameters: int
    buffers: int
    flops: int


@dataclass(frozen=True)
class Memory:
    """Bytes that one process needs for a training step, computed from the tensors alive at once.

    The device's own work space and the program are not in it.
    """

    batch: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.averages + self.activations


@dataclass(frozen=True)
class Description:
    """What `sfumato info` shows of a recipe.

    Args:
        rows: the modules, and the whole model as the last.
        evaluation_flops: of the sampled network, for one image (a multiply-add counts as two).
        training_flops: of one training step, for one image, backward passes included.
        memory: for the recipe's batch.
    """

    rows: list[ModuleRow]
    evaluation_flops: int
    nfe: int
    training_flops: int
    memory: Memory

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}


def describe_model(experiment: Experiment, depth: int) -> Description:
    """What the modules of an experiment are, do and need, down to `depth` levels.

    Found by training steps on tiny batches, in the recipe's precision (float32 if that is auto);
    the images are not needed if the catalogue states their shape and classes.
    """
    config = experiment.training
    model = build_model(experiment, form(experiment.data))
    if config.recompute_activations:
        recompute_activations(model)
    flops, outputs, training = _count_operations(model, config)
    named = [(n, m) for n, m in model.named_modules() if n and n.count(".") < depth]
    rows = [
        _row(name, module, outputs.get(module), flops)
        for name, module in named
        if module in outputs or any(True for _ in module.parameters())
    ]
    rows.append(_row("(total)", model, None, flops))
    return Description(
        rows,
        _of(model.sampled_module, flops),
        model.nfe,
        round(training),
        _memory(model, config),
    )


def _count_operations(
    model: GenerativeModel, config: TrainingConfig
) -> tuple[dict[nn.Module, int], dict[nn.Module, Tensor], float]:
    """Operations of each module's forward, its output, and those of a whole training step."""
    flops: dict[nn.Module, int] = {}
    outputs: dict[nn.Module, Tensor] = {}
    size, total = SIZES[0], 0.0

    def begin(module: nn.Module, inputs: Any) -> None:
        flops[module] = counter.get_total_flops()

    def end(module: nn.Module, inputs: Any, output: Any) -> None:
        flops[module] = (counter.get_total_flops() - flops[module]) // size
        if isinstance(output, Tensor):
            outputs[module] = output.detach()

    with flop_counter() as counter:
        for phase in model.phases():
            before = counter.get_total_flops()
            hooks = [m.register_forward_pre_hook(begin) for m in model.modules()]
            hooks += [m.register_forward_hook(end) for m in model.modules()]
            losses = _losses(model, phase, config, size)
            for hook in hooks:  # a backward pass may compute a forward again
                hook.remove()
            losses.sum().backward()  # type: ignore[no-untyped-call]
            total += (counter.get_total_flops() - before) / size / phase.every
    model.zero_grad(set_to_none=True)
    return flops, outputs, total


def _losses(model: GenerativeModel, phase: Phase, config: TrainingConfig, size: int) -> Tensor:
    """The losses of a phase on a black batch."""
    if len(model.phases()) > 1:
        model.requires_grad_(False)
        phase.module.requires_grad_(True)
    labels = torch.zeros(size, dtype=torch.int64) if model.num_classes else None
    batch = Batch(torch.zeros(size, *model.image_shape), labels)
    with computing(torch.device("cpu"), plan_of(config)):
        return phase.loss(batch, TrainingNoise("info", global_batch=size)).float()


def _memory(model: GenerativeModel, config: TrainingConfig) -> Memory:
    """What a step of the recipe's batch, or micro-batch, keeps alive at its worst moment."""
    optimizers = {
        module: config.optimizer.build(module, config.learning_rate, plan_of(config).is_fast)
        for module in {phase.module for phase in model.phases()}
    }
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    batch = min(config.micro_batch_size or config.batch_size, config.batch_size)
    activations = 0.0
    for phase in model.phases():
        small, large = (_peak(model, phase, config, size) for size in SIZES)
        slope = (large - small) / (SIZES[1] - SIZES[0])
        activations = max(activations, small + slope * (batch - SIZES[0]))
    for optimizer in optimizers.values():
        optimizer.step()
    states = (state.values() for o in optimizers.values() for state in o.state.values())
    averaged = model.sampled_module.state_dict().values()
    return Memory(
        batch=config.batch_size,
        weights=_bytes([*model.parameters(), *model.buffers()]),
        gradients=_bytes(p for m in optimizers for p in m.parameters()),
        optimizer=_bytes(value for state in states for value in state),
        averages=len(config.averages) * _bytes(averaged),
        activations=round(activations),
    )


def _peak(model: GenerativeModel, phase: Phase, config: TrainingConfig, size: int) -> int:
    """Bytes alive at most while a phase computes its loss and gradients."""
    with LiveMemory() as memory:
        _losses(model, phase, config, size).sum().backward()  # type: ignore[no-untyped-call]
    peak: int = memory.peak
    return peak


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def _of(module: nn.Module, flops: dict[nn.Module, int]) -> int:
    """Operations of a module; where it is not entered by its forward, those of its children."""
    if module in flops:
        return flops[module]
    return sum(_of(child, flops) for child in module.children())


def _row(
    name: str, module: nn.Module, output: Tensor | None, flops: dict[nn.Module, int]
) -> ModuleRow:
    return ModuleRow(
        module=name,
        type=type(module).__name__,
        output="" if output is None else "x".join(map(str, output.shape[1:])),
        dtype="" if output is None else str(output.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in module.parameters()),
        buffers=sum(b.numel() for b in module.buffers()),
        flops=_of(module, flops),
    )


def flop_counter() -> FlopCounterMode:
    """torch's counter, which does not know the CPU's attention kernel by itself."""
    aten = torch.ops.aten
    attention: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=attention)


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    flops: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    return flops


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any, **kwargs: Any
) -> int:
    flops: int = sdpa_backward_flop_count(gradient, query, key, value)  # type: ignore[no-untyped-call]
    return flops
