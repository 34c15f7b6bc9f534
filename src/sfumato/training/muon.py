"""Muon: momentum whose matrices are made orthogonal before they are applied.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale
by which one learning rate serves it and AdamW is that of Liu et al. 2025, "Muon is scalable",
section 2.2.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives singular values towards 1 (Jordan et al. 2024)."""
SMALLEST = 16
"""Rows and columns from which on a weight is a matrix: the first and the last layer of a network,
one side of which are pixels, are better left to AdamW."""


def orthogonalized(
    matrices: Float[Tensor, "*stack rows columns"],
    dtype: torch.dtype = torch.bfloat16,
    steps: int = 5,
) -> Float[Tensor, "*stack rows columns"]:
    """Nearly U V^T of the singular value decompositions U S V^T, by Newton-Schulz iteration.

    Singular values above about 1e-3 of the norm come out between 0.7 and 1.2.

    Args:
        dtype: of the iteration. The authors' is bfloat16: exact enough for a direction.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    stack = x.reshape(-1, *x.shape[-2:])
    for _ in range(steps):  # x <- a x + (b G + c G^2) x with G = x x^T
        gram = stack @ stack.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        stack = torch.baddbmm(stack, polynomial, stack, beta=a)
    x = stack.view_as(x)
    result: Tensor = (x.mT if tall else x).to(matrices)
    return result


class Muon(torch.optim.AdamW):
    """Muon for the matrices and convolutions of a module, AdamW for everything else.

    A convolution [out, in, h, w] is the matrix [out, in h w]. Embeddings, biases, gains, and
    weights with fewer than 16 rows or columns are AdamW's.

    Args:
        module: whose parameters are trained.
        learning_rate: of both: the update of a matrix has the root mean square, 0.2, of AdamW's.
        momentum: of the matrices (Nesterov's form).
        betas, eps, weight_decay: AdamW's; the weight decay is both's.
        fast: AdamW is fused, and matrices are made orthogonal in bfloat16; else in float32.
    """

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        fast: bool = True,
    ) -> None:
        self._dtype = torch.bfloat16 if fast else torch.float32
        embeddings = {m.weight for m in module.modules() if isinstance(m, nn.Embedding)}
        matrices = [p for p in module.parameters() if _is_matrix(p) and p not in embeddings]
        chosen = set(matrices)
        others = [p for p in module.parameters() if p not in chosen]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "momentum": momentum, "state_names": ("step", "momentum_buffer")},
            {"params": others},
        ]
        super().__init__(
            [group for group in groups if group["params"]],
            lr=learning_rate,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            fused=fast or None,
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of both."""
        gradients: dict[nn.Parameter, Tensor | None] = {}
        for group in self.param_groups:
            if "momentum" in group:
                gradients |= {p: p.grad for p in group["params"] if p.grad is not None}
                self._step_matrices(group)
        for parameter in gradients:  # AdamW passes over parameters without a gradient
            parameter.grad = None
        result = super().step(closure)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        return result

    def _step_matrices(self, group: dict[str, Any]) -> None:
        momentum, rate = group["momentum"], group["lr"]
        # Matrices of one shape go through the iteration together: fewer, larger products.
        alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)  # AdamW expects it of every state it loads
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"]
            buffer.lerp_(parameter.grad, 1 - momentum)
            ahead = parameter.grad.lerp(buffer, momentum).flatten(1)
            alike.setdefault((ahead.shape[0], ahead.shape[1]), []).append((parameter, ahead))
        for shape, members in alike.items():
            stack = torch.stack([ahead for _, ahead in members])
            updates = orthogonalized(stack, self._dtype)
            for (parameter, _), update in zip(members, updates, strict=True):
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-rate * 0.2 * max(shape) ** 0.5)


def _is_matrix(parameter: nn.Parameter) -> bool:
    if parameter.dim() < 2:
        return False
    rows = parameter.shape[0]
    return min(rows, parameter.numel() // rows) >= SMALLEST
