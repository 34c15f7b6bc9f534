"""The repeated blocks of a network, and gradient checkpointing: recomputing their activations."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.checkpoint import checkpoint


class Blocks(nn.ModuleList):
    """A list of blocks, each of which a network computes by `run`.

    With `recompute` a block keeps only its input for the backward pass, and its activations are
    computed again when gradients need them: less memory, about a third more time. The results are
    the same: random numbers are drawn again from the same state, and what a forward pass changes
    (statistics of batches, vectors of spectral normalization) changes once.
    Source: Chen et al. 2016 (Training Deep Nets with Sublinear Memory Cost).
    """

    recompute: bool = False

    def run(self, block: nn.Module, *inputs: Any) -> Any:
        """The output of one of the blocks."""
        if not (self.recompute and torch.is_grad_enabled()):
            return block(*inputs)
        kinds = nn.BatchNorm2d | ParametrizationList
        changing = [b for m in block.modules() if isinstance(m, kinds) for b in m.buffers()]
        if not (changing and block.training):
            return checkpoint(block, *inputs, use_reentrant=False)
        as_before = _AsBefore(changing)
        return checkpoint(
            block, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), as_before)
        )


def recompute_activations(model: nn.Module) -> None:
    """Let all `Blocks` of a model recompute their activations."""
    for module in model.modules():
        if isinstance(module, Blocks):
            module.recompute = True


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The outermost repeated parts of a model: the members of its module lists."""
    found: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            found += [block for block in child if any(True for _ in block.parameters())]
        else:
            found += blocks_of(child)
    return found


class _AsBefore(AbstractContextManager[None]):
    """Inside, buffers are as they were when this was made.

    Entered once for every recomputation: a gradient of a gradient recomputes more than once.
    """

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self._buffers = buffers
        self._before = [buffer.clone() for buffer in buffers]
        self._now: list[Tensor] = []

    def __enter__(self) -> None:
        self._now = [buffer.clone() for buffer in self._buffers]
        _copy(self._before, self._buffers)

    def __exit__(self, *error: object) -> None:
        _copy(self._now, self._buffers)


@torch.no_grad()
def _copy(source: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    for values, buffer in zip(source, into, strict=True):
        buffer.copy_(values)
