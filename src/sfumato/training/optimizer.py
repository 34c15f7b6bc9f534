"""Optimizers and learning-rate schedules as config, and Muon.

Muon is momentum whose matrices are made orthogonal before they are applied. Source: Jordan et al.
2024, "Muon: an optimizer for hidden layers in neural networks". One learning rate serves it and
AdamW by the scale of Liu et al. 2025, "Muon is scalable", section 2.2.
"""

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sfumato.core.config import component
from sfumato.core.distributed import is_sharded
from sfumato.core.errors import ConfigError

Decay = Annotated[float, Field(ge=0, lt=1)]
"""The share of a running mean that a step keeps."""


@component
class Adam:
    """Adam (Kingma & Ba 2015). DCGAN uses betas [0.5, 0.999]."""

    state_names: ClassVar[tuple[str, ...]] = ("step", "exp_avg", "exp_avg_sq")
    kind: Literal["adam"] = "adam"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    epsilon: float = 1e-8

    def build(self, module: nn.Module, learning_rate: float, fast: bool) -> torch.optim.Optimizer:
        """The optimizer; fused if `fast`."""
        return torch.optim.Adam(
            module.parameters(),
            lr=learning_rate,
            betas=self.betas,
            eps=self.epsilon,
            fused=fast or None,  # None: PyTorch's own choice, which is never the fused form
        )


@component
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    state_names: ClassVar[tuple[str, ...]] = ("step", "exp_avg", "exp_avg_sq")
    kind: Literal["adamw"] = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def build(self, module: nn.Module, learning_rate: float, fast: bool) -> torch.optim.Optimizer:
        """The optimizer; fused if `fast`."""
        return torch.optim.AdamW(
            module.parameters(),
            lr=learning_rate,
            betas=self.betas,
            eps=self.epsilon,
            weight_decay=self.weight_decay,
            fused=fast or None,
        )


@component
class SGD:
    """Stochastic gradient descent with momentum."""

    state_names: ClassVar[tuple[str, ...]] = ("momentum_buffer",)
    kind: Literal["sgd"] = "sgd"
    momentum: float = 0.9

    def build(self, module: nn.Module, learning_rate: float, fast: bool) -> torch.optim.Optimizer:
        """The optimizer. Its fused form does not support sharded parameters."""
        return torch.optim.SGD(module.parameters(), lr=learning_rate, momentum=self.momentum)


@component
class RMSprop:
    """RMSprop, as Wasserstein GANs with clipping use it (Arjovsky et al. 2017)."""

    state_names: ClassVar[tuple[str, ...]] = ("step", "square_avg")
    kind: Literal["rmsprop"] = "rmsprop"
    smoothing: float = 0.99

    def build(self, module: nn.Module, learning_rate: float, fast: bool) -> torch.optim.Optimizer:
        """The optimizer."""
        return torch.optim.RMSprop(module.parameters(), lr=learning_rate, alpha=self.smoothing)


@component
class MuonConfig:
    """Muon for matrices and convolutions, AdamW for the rest, at one learning rate."""

    state_names: ClassVar[tuple[str, ...]] = ("step", "exp_avg", "exp_avg_sq")
    kind: Literal["muon"] = "muon"
    momentum: Decay = 0.95
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def build(self, module: nn.Module, learning_rate: float, fast: bool) -> torch.optim.Optimizer:
        """The optimizer; if `fast` its AdamW is fused and its iteration in bfloat16.

        Raises:
            ConfigError: the parameters are sharded.
        """
        if is_sharded(module):
            raise ConfigError(
                "training.optimizer 'muon' does not go with training.shard: it needs whole "
                "matrices; leave training.shard out, or use adamw"
            )
        return Muon(
            module, learning_rate, self.momentum, self.betas, self.epsilon, self.weight_decay, fast
        )


Optimizer = Annotated[Adam | AdamW | SGD | RMSprop | MuonConfig, Field(discriminator="kind")]


@component
class ConstantRate:
    """The learning rate as given, until the end."""

    kind: Literal["constant"] = "constant"

    def factor(self, images: float, end: float) -> float:
        """The factor on the learning rate after `images` of `end`."""
        return 1.0


@component
class CosineRate:
    """Half a cosine from the learning rate to `final` times it (Loshchilov & Hutter 2017)."""

    kind: Literal["cosine"] = "cosine"
    final: float = 0.0

    def factor(self, images: float, end: float) -> float:
        """The factor on the learning rate after `images` of `end`."""
        progress = min(images / end, 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@component
class InverseSquareRootRate:
    """Constant for `flat_images`, then falling as 1 / sqrt(images) (Karras et al. 2024, EDM2)."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    flat_images: int

    def factor(self, images: float, end: float) -> float:
        """The factor on the learning rate after `images`."""
        return 1 / math.sqrt(max(images / self.flat_images, 1.0))


RateSchedule = Annotated[
    ConstantRate | CosineRate | InverseSquareRootRate, Field(discriminator="kind")
]


COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives singular values towards 1 (Jordan et al. 2024)."""
SMALLEST = 16
"""Smallest number of rows and columns of a matrix. The first and the last layer of a network, one
side of which are pixels, are better left to AdamW."""


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
        groups: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
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
            groups.setdefault((ahead.shape[0], ahead.shape[1]), []).append((parameter, ahead))
        for shape, members in groups.items():
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
