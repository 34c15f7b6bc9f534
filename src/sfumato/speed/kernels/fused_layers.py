"""Layers that have a fast path on a CPU beside the plain one: normalization and attention.

Both start on the plain path: PyTorch's own operations. `use_kernels` sets which path the layers of
a network take; the results agree to rounding (tests/speed/test_fused_layers.py).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.speed.kernels.norm import Activation, NormKernel, activate

LONGEST = {torch.bfloat16: 512, torch.float32: 128}
"""Positions up to which two matrix products are faster than PyTorch's attention on a CPU.

Gain: heads of 8 channels took 0.61 s of a training step of 1.47 s by PyTorch's kernel, and about
0.05 s by two products (docs/results/speed.md).
"""


class GroupNorm(nn.GroupNorm):
    """Group normalization that may be followed by a scale and shift and an activation."""

    kernel: NormKernel | None = None
    """Computes channels-last images on a CPU; None: PyTorch does."""

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        activation: Activation = "none",
    ) -> Float[Tensor, "B C H W"]:
        """The activation of norm(x), or of (1 + scale) norm(x) + shift.

        Args:
            x: feature maps.
            scale, shift: one number per channel and image, shape [B, C]; both or neither.
            activation: the last operation.
        """
        if self.kernel is not None and self.kernel.takes(x):
            a: Tensor = self.weight
            b: Tensor = self.bias
            if scale is not None and shift is not None:
                a, b = a * (1 + scale), torch.addcmul(shift.to(b), b, 1 + scale.to(b))
            return self.kernel(x, a, b, self.num_groups, self.eps, activation)
        h = super().forward(x)
        if scale is not None and shift is not None:
            h = torch.addcmul(shift[:, :, None, None], h, 1 + scale[:, :, None, None])
        return activate(h, activation)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v for each head; has no parameters."""

    direct = False
    """Whether two plain matrix products do short sequences on a CPU."""

    def forward(
        self, q: Float[Tensor, "B h L d"], k: Float[Tensor, "B h L d"], v: Float[Tensor, "B h L d"]
    ) -> Float[Tensor, "B h L d"]:
        if not self.direct or q.device.type != "cpu":
            return F.scaled_dot_product_attention(q, k, v)
        if q.shape[2] > LONGEST.get(q.dtype, 0):
            # PyTorch's fast kernel needs the numbers of a position side by side.
            return F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
        batch, heads, length, dim = q.shape
        q, k, v = (t.reshape(batch * heads, length, dim) for t in (q, k, v))
        nothing = q.new_empty(1, 1, 1)
        scores = torch.baddbmm(nothing, q, k.transpose(1, 2), beta=0, alpha=1 / math.sqrt(dim))
        return torch.bmm(scores.softmax(dim=-1), v).view(batch, heads, length, dim)


def use_kernels(network: nn.Module, kernel: NormKernel | None) -> None:
    """Put the layers of a network on the fast path, or back on the plain one (None)."""
    for module in network.modules():
        if isinstance(module, GroupNorm):
            module.kernel = kernel
        elif isinstance(module, Attention):
            module.direct = kernel is not None


def has_kernels(network: nn.Module) -> bool:
    """Whether a network has a layer with a fast path."""
    return any(isinstance(module, GroupNorm | Attention) for module in network.modules())
