"""What the trainer and the evaluator know of a model: phases to train, and how to sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.images import Batch, Images, Labels, Shape
from sfumato.core.noise import RandomStream

OnStep = Callable[[int, Tensor, Tensor], None]
"""Called after each sampling step with (step, x_t, predicted x_0)."""


@dataclass(frozen=True)
class Phase:
    """One optimization step of a training iteration.

    Args:
        name: unique within the model; the loss is logged as `loss/<name>`.
        module: its parameters are optimized in this phase, all others are held fixed. Phases with
            the same module share its optimizer.
        loss: (batch, noise) -> one loss an image.
        every: run in every `every`-th iteration only.
        lazy: what happens rarely counts for the iterations between: the trainer multiplies the
            loss by `every` (lazy regularization, Karras et al. 2020, section 3.1).
        rate: on the learning rate: players may move at different speeds. The same in all
            phases of a module.
        double_backward: the loss contains gradients, so that its gradient differentiates twice;
            such a phase can be neither compiled nor captured as a graph.
        after: called when the optimizer has stepped: clipping of weights, adaptive state.
        noisy_losses: where images have noise levels: (batch, noise) -> (loss, error, log-SNR), the
            loss as above, the error before any weighting. The trainer then calls this one, and
            also logs the mean error in bins of log-SNR.
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


@runtime_checkable
class GenerativeModel(Protocol):
    """A diffusion model and a GAN are both this (and an nn.Module)."""

    image_shape: Shape
    num_classes: int
    """0 for an unconditional model."""

    @property
    def nfe(self) -> int:
        """Network evaluations for one image."""
        ...

    @property
    def sampled_module(self) -> nn.Module:
        """The part that `sample` evaluates: its parameters are averaged (EMA)."""
        ...

    def phases(self) -> Sequence[Phase]:
        """The phases of one training iteration, in order."""
        ...

    def sample(
        self, labels: Labels | None, noise: RandomStream, on_step: OnStep | None = None
    ) -> Images:
        """One image in [-1, 1] for each stream of `noise`, on the model's device."""
        ...


@runtime_checkable
class Observed(Protocol):
    """A model whose phases see more than a loss. Optional."""

    def observations(self) -> Mapping[str, Float[Tensor, " B"]]:
        """What the last phase saw, a value an image; the log has the means by name."""
        ...


@runtime_checkable
class Judging(Protocol):
    """A model with a discriminator, which can be asked about images. Optional."""

    @property
    def boundary(self) -> float | None:
        """The logit between real and generated images; None where the loss leaves it open."""
        ...

    def logits(self, batch: Batch) -> Float[Tensor, " B"]:
        """High for images that look real; of the images as they are, on the model's device."""
        ...


@runtime_checkable
class SelfDiagnosing(Protocol):
    """A model that knows signs of trouble of its own. Optional."""

    def warnings(self) -> Sequence[str]:
        """What is wrong now, in plain words with a remedy; asked at every row of the log."""
        ...
