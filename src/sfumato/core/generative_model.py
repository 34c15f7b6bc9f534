"""What the trainer and the evaluator know of a model: phases, sampling, repeated blocks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.checkpoint import checkpoint

from sfumato.core.images import Batch, Images, Labels, Shape
from sfumato.core.noise import RandomStream

OnStep = Callable[[int, Tensor, Tensor], None]
"""Called after each sampling step with (step, x_t, predicted x_0)."""


@dataclass(frozen=True)
class Phase:
    """One optimization step of a training iteration.

    Args:
        name: unique within the model; the loss is logged as `loss/<name>`.
        module: its parameters are optimized in this phase, all others are fixed. Phases with the
            same module share its optimizer.
        loss: (batch, noise) -> one loss per image.
        every: run in every `every`-th iteration only.
        lazy: the trainer multiplies the loss by `every`, so that a rare phase also counts for the
            iterations between (lazy regularization, Karras et al. 2020, section 3.1).
        rate: factor of the learning rate. All phases of a module have the same.
        double_backward: the loss contains gradients, so that its gradient differentiates twice.
            Such a phase can be neither compiled nor captured as a graph.
        after: called after the optimizer's step: clipping of weights, adaptive state.
        noisy_losses: where images have noise levels: (batch, noise) -> (loss, error, log-SNR). The
            loss is as above, the error is unweighted. The trainer calls this in place of `loss`
            and logs the mean error in bins of log-SNR.
    """

    name: str
    module: nn.Module
    loss: Callable[[Batch, RandomStream], Float[Tensor, " B"]]
    every: int = 1
    lazy: bool = True
    rate: float = 1.0
    double_backward: bool = False
    after: Callable[[], None] | None = None
    noisy_losses: Callable[[Batch, RandomStream], tuple[Tensor, Tensor, Tensor]] | None = None


class GenerativeModel(nn.Module, ABC):
    """A model that is trained by its phases and sampled from: a diffusion model, a GAN."""

    image_shape: Shape
    num_classes: int
    """0 for an unconditional model."""

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Network evaluations per image."""

    @property
    @abstractmethod
    def sampled_module(self) -> nn.Module:
        """The part that `sample` evaluates. Its parameters are averaged (EMA)."""

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The phases of one training iteration, in order."""

    @abstractmethod
    def sample(
        self, labels: Labels | None, noise: RandomStream, on_step: OnStep | None = None
    ) -> Images:
        """One image in [-1, 1] for each stream of `noise`, on the model's device."""

    def sample_costliest_step(self, labels: Labels | None, noise: RandomStream) -> None:
        """The step of `sample` that needs most memory, for those who measure it."""
        self.sample(labels, noise)


@runtime_checkable
class Observing(Protocol):
    """A model whose phases measure more than a loss. Optional."""

    def observations(self) -> Mapping[str, Float[Tensor, " B"]]:
        """Measurements of the last phase by name, one value per image; the log has the means."""
        ...


@runtime_checkable
class Judging(Protocol):
    """A model with a discriminator. Optional."""

    @property
    def boundary(self) -> float | None:
        """The logit between real and generated images; None where the loss leaves it open."""
        ...

    def logits(self, batch: Batch) -> Float[Tensor, " B"]:
        """The logits of unaugmented images, high for real ones, on the model's device."""
        ...


@runtime_checkable
class SelfDiagnosing(Protocol):
    """A model that can report problems of its own. Optional."""

    def warnings(self) -> Sequence[str]:
        """Current problems in plain words, each with a remedy; called at every row of the log."""
        ...


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
