"""Layers that keep the magnitude of their input (Karras et al. 2024, EDM2, section 2 and app. B).

Weights are used at unit norm and are put back to it after every optimizer step; activations of
unit variance then stay so on expectation, without normalization layers.
"""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.images import Labels
from sfumato.networks.shapes import Embedding, Maps

SILU_RMS = 0.596
"""Root mean square of SiLU on standard normal numbers (eq. 81)."""


def unit_rms(x: Tensor, dims: tuple[int, ...], eps: float = 1e-4) -> Tensor:
    """x divided by its root mean square over `dims`, which is taken in float32 at least."""
    count = math.prod(x.shape[dim] for dim in dims)
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=dtype)
    return x / (norm / math.sqrt(count) + eps).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU, scaled to unit variance for standard normal numbers."""
    return F.silu(x) / SILU_RMS


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 - t) a + t b, scaled to the variance of its independent parts (eq. 88)."""
    return torch.lerp(a, b.to(a.dtype), t) / math.hypot(1 - t, t)


def mp_cat(a: Maps, b: Float[Tensor, "B D H W"]) -> Float[Tensor, "B E H W"]:
    """Joined channels, scaled so that both parts contribute equally downstream (eq. 103)."""
    channels_a, channels_b = a.shape[1], b.shape[1]
    half = math.sqrt((channels_a + channels_b) / 2)
    return torch.cat([a * (half / math.sqrt(channels_a)), b * (half / math.sqrt(channels_b))], 1)


class MPLayer(nn.Module):
    """A linear layer or convolution without bias whose weights have unit norm per output.

    Args:
        kernel: side of the kernel of a convolution; 0 is a linear layer.

    Source: Karras et al. 2024, eqs. 47 and 66.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        shape = (out_channels, channels, *([kernel, kernel] if kernel else []))
        self.weight = nn.Parameter(torch.randn(shape))
        self.kernel = kernel
        self.constrain()

    def forward(
        self, x: Float[Tensor, "B C ..."], gain: Tensor | float = 1.0
    ) -> Float[Tensor, "B D ..."]:
        """`gain` is multiplied to the weights."""
        fan_in = self.weight[0].numel()
        # normalized once more, so that the gradient is at right angles to the weights
        weight = self._normalized() * (gain / math.sqrt(fan_in))
        if self.kernel == 0:
            return F.linear(x, weight.to(x.dtype))
        return F.conv2d(x, weight.to(x.dtype), padding=self.kernel // 2)

    @torch.no_grad()
    def constrain(self) -> None:
        """Scale each output's weights to a root mean square of 1."""
        self.weight.copy_(self._normalized())

    def _normalized(self) -> Tensor:
        return unit_rms(self.weight, tuple(range(1, self.weight.dim())))


class MPFourier(nn.Module):
    """Cosines of random frequencies and phases, of unit variance (eq. 75). In float32."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(dim))
        self.register_buffer("phases", 2 * math.pi * torch.rand(dim))

    def forward(self, noise_label: Float[Tensor, " B"]) -> Float[Tensor, "B dim"]:
        angles = torch.outer(noise_label.float(), self.frequencies) + self.phases
        return math.sqrt(2) * angles.cos()


class MPClassEmbedding(nn.Module):
    """A vector for each class and for the null class, which is the last."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.num_rows = num_classes + 1
        self.linear = MPLayer(self.num_rows, dim, 0)

    def forward(self, labels: Labels | None, count: int) -> Embedding:
        """The vectors of `labels`; None means `count` times the null class."""
        if labels is None:
            device = self.linear.weight.device
            labels = torch.full((count,), self.num_rows - 1, device=device)
        one_hot = F.one_hot(labels, self.num_rows).to(self.linear.weight.dtype)
        return self.linear(one_hot * math.sqrt(self.num_rows))  # type: ignore[no-any-return]


@runtime_checkable
class Constrained(Protocol):
    """A layer whose weights are confined to a set."""

    def constrain(self) -> None:
        """Put the weights back into the set."""
        ...


def constraint(network: nn.Module) -> Callable[[], None] | None:
    """The function to call after each optimizer step of a network; None if there is none."""
    layers = [layer for layer in network.modules() if isinstance(layer, Constrained)]
    if not layers:
        return None

    def constrain() -> None:
        for layer in layers:
            layer.constrain()

    return constrain
