"""Unrolled GANs: a discriminator some steps ahead, as a function of the generated images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sfumato.core.config import component

State = dict[str, Tensor]
"""Parameters and buffers of a module by name."""


@component
class Unrolling:
    """The generator looks `steps` steps of the discriminator ahead.

    Its gradient goes through these steps of gradient descent at `learning_rate`, which the
    discriminator itself never takes. Each process, and each micro-batch, looks ahead on its own
    images. It is meant for the zero-sum game (`loss = { kind = "minimax" }`), where the
    discriminator's answer can only cost the generator something; its logits of real images
    belong to that. Source: Metz et al. 2017 (Unrolled GAN), eqs. 6 to 8.
    """

    steps: int = 5
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0:
            raise ValueError(
                "unrolled needs steps >= 1 and learning_rate > 0, got "
                f"steps={self.steps}, learning_rate={self.learning_rate}"
            )

    def ahead(self, module: nn.Module, loss: Callable[[State], Tensor]) -> State:
        """The state of `module` after descending `loss`, differentiable through all steps.

        The module itself, its buffers included, stays as it is.

        Args:
            loss: a scalar from a state, by `functional_call(module, state, ...)`.
        """
        # Layers change buffers in place (running statistics): they get copies.
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        parameters = {
            name: p.detach().clone().requires_grad_(True) for name, p in module.named_parameters()
        }
        for _ in range(self.steps):
            gradients = torch.autograd.grad(
                loss(parameters | buffers), list(parameters.values()), create_graph=True
            )
            parameters = {
                name: parameter - self.learning_rate * gradient
                for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
            }
        return parameters | buffers


def judged_by(module: nn.Module, state: State, *inputs: Tensor | None) -> Tensor:
    """The output of `module` with another state."""
    output: Tensor = functional_call(module, state, inputs)
    return output
