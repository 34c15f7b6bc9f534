"""What the trainer and the evaluator know of a model: phases to train, and how to sample."""

from abc import ABC, abstractmethod
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
