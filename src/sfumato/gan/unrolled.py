"""Unrolled GANs: a discriminator some steps ahead, as a function of the generated images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sfumato.core.config import component

EPSILON = 1e-8
"""Added to the size of gradients, as Adam does."""

State = dict[str, Tensor]
"""Parameters and buffers of a module by name."""


@component
class Unrolling:
    """The generator looks `steps` steps of the discriminator ahead.

    Its gradient goes through these steps, which the discriminator itself never takes. Each
    process, and each micro-batch, looks ahead on its own images. It is meant for the zero-sum
    game (`loss = { kind = "minimax" }`), where the discriminator's answer can only cost the
    generator something; its logits of real images belong to that.

    Args:
        steps: how many.
        learning_rate: of a step. Where steps are normalized, about that of the discriminator.
        smoothing: a step of each weight is divided by the root mean square of the gradients it
            had in training, averaged like this (and those of the steps): steps of Adam without
            momentum. None: plain gradient descent, which wants larger learning rates.

    Source: Metz et al. 2017 (Unrolled GAN), eqs. 6 to 8; they unroll Adam in their experiments.
    """

    steps: int = 5
    learning_rate: float = 1e-3
    smoothing: float | None = 0.999

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0:
            raise ValueError(
                "unrolled needs steps >= 1 and learning_rate > 0, got "
                f"steps={self.steps}, learning_rate={self.learning_rate}"
            )
        if self.smoothing is not None and not 0 <= self.smoothing < 1:
            raise ValueError(f"unrolled needs 0 <= smoothing < 1, got smoothing={self.smoothing}")

    def ahead(
        self,
        module: nn.Module,
        loss: Callable[[State], Tensor],
        seen: "SquaredGradients | None" = None,
    ) -> State:
        """The state of `module` after descending `loss`, differentiable through all steps.

        The module itself, its buffers included, stays as it is.

        Args:
            loss: a scalar from a state, by `functional_call(module, state, ...)`.
            seen: of the module's training; None: plain gradient descent.
        """
        # Layers change buffers in place (running statistics): they get copies.
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        parameters = {
            name: p.detach().clone().requires_grad_(True) for name, p in module.named_parameters()
        }
        squares, weight = ([], 0.0) if seen is None else (seen.sums(), float(seen.weight))
        for _ in range(self.steps):
            gradients: Sequence[Tensor] = torch.autograd.grad(
                loss(parameters | buffers), list(parameters.values()), create_graph=True
            )
            if self.smoothing is not None and seen is not None:
                squares = _moved(squares, gradients, self.smoothing)
                weight = self.smoothing * weight + 1 - self.smoothing
                gradients = [
                    # Inside the root: its slope at 0 has no end.
                    gradient / (square / weight + EPSILON**2).sqrt()
                    for gradient, square in zip(gradients, squares, strict=True)
                ]
            parameters = {
                name: parameter - self.learning_rate * gradient
                for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
            }
        return parameters | buffers


class SquaredGradients(nn.Module):
    """The running mean of the squared gradient of each parameter of a module."""

    weight: Tensor

    def __init__(self, module: nn.Module, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weight", torch.zeros(()))  # of all gradients so far, towards 1
        self._names = [f"of_{i}" for i, _ in enumerate(module.parameters())]
        for name, parameter in zip(self._names, module.parameters(), strict=True):
            self.register_buffer(name, torch.zeros_like(parameter, requires_grad=False))

    def sums(self) -> list[Tensor]:
        """The weighted sums of squares, in the order of the parameters."""
        return [getattr(self, name) for name in self._names]

    @torch.no_grad()
    def add(self, module: nn.Module) -> None:
        """Take in the gradients that the module's optimizer has just used."""
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad.nan_to_num(0.0, 0.0, 0.0)
            for p in module.parameters()  # not a number: a step of float16 that was left out
        ]
        moved = _moved(self.sums(), gradients, self.smoothing)
        for buffer, square in zip(self.sums(), moved, strict=True):
            buffer.copy_(square)
        self.weight.mul_(self.smoothing).add_(1 - self.smoothing)


def _moved(
    squares: Sequence[Tensor], gradients: Sequence[Tensor], smoothing: float
) -> list[Tensor]:
    """Running sums of squares with one more gradient."""
    return [
        smoothing * square + (1 - smoothing) * gradient.square()
        for square, gradient in zip(squares, gradients, strict=True)
    ]


def judged_by(module: nn.Module, state: State, *inputs: Tensor | None) -> Tensor:
    """The output of `module` with another state."""
    output: Tensor = functional_call(module, state, inputs)
    return output
