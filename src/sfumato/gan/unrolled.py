"""Unrolled GANs: a discriminator some steps ahead, as a function of the generated images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sfumato.core.config import FractionBelowOne, PositiveFloat, PositiveInt, component

EPSILON = 1e-8
"""Added to the size of gradients, as Adam does."""

Betas = tuple[FractionBelowOne, FractionBelowOne]
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
        learning_rate: of a step; with betas about that of the discriminator.
        betas: of Adam, whose steps go on from the gradients that the discriminator has had in
            training. None: plain gradient descent, which wants larger learning rates.

    Source: Metz et al. 2017 (Unrolled GAN), eqs. 6 to 8; they unroll Adam in their experiments.
    """

    steps: PositiveInt = 5
    learning_rate: PositiveFloat = 1e-2
    betas: Betas | None = None

    def ahead(
        self,
        module: nn.Module,
        loss: Callable[[State], Tensor],
        moments: "AdamMoments | None" = None,
    ) -> State:
        """The state of `module` after descending `loss`, differentiable through all steps.

        The module itself, its buffers included, stays as it is.

        Args:
            loss: a scalar from a state, by `functional_call(module, state, ...)`.
            moments: of the module's gradients in training; Adam needs them.
        """
        # Layers change buffers in place (running statistics): they get copies.
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        parameters = {
            name: p.detach().clone().requires_grad_(True) for name, p in module.named_parameters()
        }
        for _ in range(self.steps):
            steps: Sequence[Tensor] = torch.autograd.grad(
                loss(parameters | buffers), list(parameters.values()), create_graph=True
            )
            if self.betas is not None:
                assert moments is not None, "Adam continues from earlier gradients"
                moments = moments.and_then(steps, self.betas)
                steps = moments.direction(self.betas)
            parameters = {
                name: parameter - self.learning_rate * step
                for (name, parameter), step in zip(parameters.items(), steps, strict=True)
            }
        return parameters | buffers


@dataclass(frozen=True)
class AdamMoments:
    """Running means of gradients and of their squares, one tensor per parameter, as in Adam."""

    means: Sequence[Tensor]
    squares: Sequence[Tensor]
    count: float
    """Gradients so far."""

    def and_then(self, gradients: Sequence[Tensor], betas: Betas) -> "AdamMoments":
        """With one more gradient."""
        first, second = betas
        means = [first * m + (1 - first) * g for m, g in zip(self.means, gradients, strict=True)]
        squares = [
            second * s + (1 - second) * g.square()
            for s, g in zip(self.squares, gradients, strict=True)
        ]
        return AdamMoments(means, squares, self.count + 1)

    def direction(self, betas: Betas) -> list[Tensor]:
        """Adam's step at a learning rate of 1 (Kingma & Ba 2015, algorithm 1)."""
        first, second = (1 - beta**self.count for beta in betas)
        # Epsilon inside the root, too: its slope at 0 has no end.
        return [
            (mean / first) / ((square / second + EPSILON**2).sqrt() + EPSILON)
            for mean, square in zip(self.means, self.squares, strict=True)
        ]


class GradientMoments(nn.Module):
    """The moments of the gradients that a module is trained with, as a part of the model."""

    count: Tensor

    def __init__(self, module: nn.Module, betas: Betas) -> None:
        super().__init__()
        self.betas = betas
        self.register_buffer("count", torch.zeros(()))
        self._size = len(list(module.parameters()))
        for i, parameter in enumerate(module.parameters()):
            self.register_buffer(f"mean_{i}", torch.zeros_like(parameter, requires_grad=False))
            self.register_buffer(f"square_{i}", torch.zeros_like(parameter, requires_grad=False))

    def read(self) -> AdamMoments:
        """The moments so far."""
        means, squares = (
            [self.get_buffer(f"{kind}_{i}") for i in range(self._size)]
            for kind in ("mean", "square")
        )
        return AdamMoments(means, squares, float(self.count))

    @torch.no_grad()
    def add(self, module: nn.Module) -> None:
        """Take in the gradients that the module's optimizer has just used."""
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad.nan_to_num(0.0, 0.0, 0.0)
            for p in module.parameters()  # not a number: a step of float16 that was left out
        ]
        before = self.read()
        after = before.and_then(gradients, self.betas)
        for buffer, values in zip(before.means, after.means, strict=True):
            buffer.copy_(values)
        for buffer, values in zip(before.squares, after.squares, strict=True):
            buffer.copy_(values)
        self.count += 1


def judged_by(module: nn.Module, state: State, *inputs: Tensor | None) -> Tensor:
    """The output of `module` with another state."""
    output: Tensor = functional_call(module, state, inputs)
    return output
