"""The layers of StyleGAN2 in plain PyTorch operations (Karras et al. 2019, 2020).

Weights are drawn from N(0, 1) and scaled when they are used, so that Adam moves all layers at the
same relative speed ("equalized learning rate", Karras et al. 2018, section 4.1). All operations
can be differentiated twice.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.images import Labels
from sfumato.networks.shapes import Maps

FLOAT16_BOUND = 256.0
"""Activations in float16 are clipped to this (Karras et al. 2020, ADA, appendix D.1)."""


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the second moment; bounded where float16 might overflow."""
    x = F.leaky_relu(x, 0.2) * math.sqrt(2)
    return x.clamp(-FLOAT16_BOUND, FLOAT16_BOUND) if x.dtype == torch.float16 else x


def unit_size(x: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Each vector scaled to a mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def binomial_filter() -> Float[Tensor, "4 4"]:
    """The low-pass filter of all resampling: [1, 3, 3, 1] both ways, of sum 1."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0])
    square = torch.outer(line, line)
    return square / square.sum()


def blur(
    x: Maps, kernel: Float[Tensor, "4 4"], padding: int, stride: int = 1
) -> Float[Tensor, "B C H2 W2"]:
    """Each channel filtered, with zeros around the image."""
    if stride == 2 and _small_on_cpu(x):
        rows, columns = (_halving(size, padding).to(x) for size in x.shape[2:])
        return rows @ (x @ columns.T)
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, -1, -1)
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=channels)


def double(x: Maps, kernel: Float[Tensor, "4 4"]) -> Float[Tensor, "B C M N"]:
    """Twice the resolution: zeros between the pixels, filtered."""
    if _small_on_cpu(x):
        rows, columns = (2 * _halving(2 * size, 1).to(x) for size in x.shape[2:])
        return rows.T @ (x @ columns)
    channels = x.shape[1]
    weight = (4 * kernel).to(x.dtype).expand(channels, 1, -1, -1)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=channels)


def _small_on_cpu(x: Tensor) -> bool:
    """Where products of dense matrices beat convolutions of single channels with a stride.

    The gradient of such a convolution took ten times as long in bfloat16 on a CPU.
    """
    return x.device.type == "cpu" and max(x.shape[2:]) <= 128


@lru_cache(maxsize=64)
def _halving(size: int, padding: int) -> Float[Tensor, "half size"]:
    """[1, 3, 3, 1] / 8 at every second of `size` samples with zeros around them, as a matrix."""
    half = (size + 2 * padding - 4) // 2 + 1
    tap = torch.arange(size) + padding - 2 * torch.arange(half)[:, None]
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.where((tap >= 0) & (tap < 4), line[tap.clamp(0, 3)], 0.0)


class EqualizedLinear(nn.Module):
    """A linear layer whose learning rate is `rate` times that of the others."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.gain, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Float[Tensor, "B C"]) -> Float[Tensor, "B D"]:
        return F.linear(x, self.weight * self.gain, self.bias * self.rate)


class EqualizedConv(nn.Module):
    """A convolution, by `down` to half the resolution, and leaky ReLU unless it has no bias.

    Every layer and block keeps the filter of resampling, used or not: so the published number of
    buffer elements counts them.
    """

    kernel: Tensor

    def __init__(
        self, channels: int, outputs: int, size: int, *, bias: bool = True, down: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, channels, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain = 1 / math.sqrt(channels * size**2)
        self.down = down
        self.register_buffer("kernel", binomial_filter())

    def forward(self, x: Maps) -> Float[Tensor, "B D H2 W2"]:
        weight = self.weight * self.gain
        size = weight.shape[2]
        if self.down:  # the convolution takes the border that the filter leaves
            x = F.conv2d(blur(x, self.kernel, padding=1 + size // 2), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=size // 2)
        if self.bias is None:
            return x
        return leaky(x + self.bias.to(x.dtype)[:, None, None])


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style made of w.

    With `demodulate` every output channel is divided by the size that the scaled weights give it.
    Scaling the activations before and after one shared convolution is the same as scaling the
    weights of each image by themselves. Source: Karras et al. 2020, section 2.2.
    """

    def __init__(
        self, channels: int, outputs: int, size: int, style_dim: int, *, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, channels, size, size))
        self.style = EqualizedLinear(style_dim, channels, bias=1.0)
        self.gain = 1 / math.sqrt(channels * size**2)
        self.demodulate = demodulate

    def forward(
        self, x: Maps, w: Float[Tensor, "B S"], up: bool = False
    ) -> Float[Tensor, "B D M N"]:
        """With `up` by a transposed convolution to 2 H + 1, which is yet to be filtered."""
        with torch.autocast(x.device.type, enabled=False):
            style, weight = self.style(w.float()), self.weight * self.gain
            scale = None
            if self.demodulate:
                # Only the proportions matter: bounded numbers for float16.
                style = style / style.abs().amax(1, keepdim=True).clamp_min(1e-8)
                energy = style.square() @ weight.square().sum((2, 3)).T
                scale = (energy + 1e-8).rsqrt()[:, :, None, None]
        x = x * style.to(x.dtype)[:, :, None, None]
        if up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[2] // 2)
        return x if scale is None else x * scale.to(x.dtype)


class StyledLayer(nn.Module):
    """Modulated convolution, noise at every position, bias, leaky ReLU."""

    noise_constant: Tensor
    kernel: Tensor

    def __init__(
        self, channels: int, outputs: int, resolution: int, style_dim: int, *, up: bool
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels, outputs, 3, style_dim)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.up = up
        self.register_buffer("noise_constant", torch.randn(resolution, resolution))
        self.register_buffer("kernel", binomial_filter())

    def forward(
        self, x: Maps, w: Float[Tensor, "B S"], noise: Float[Tensor, "B 1 M N"] | None
    ) -> Float[Tensor, "B D M N"]:
        """`noise` None: the noise that belongs to the layer."""
        x = self.conv(x, w, self.up)
        if self.up:
            x = blur(x, 4 * self.kernel, padding=1)
        noise = self.noise_constant if noise is None else noise
        x = x + (noise * self.noise_strength).to(x.dtype)
        return leaky(x + self.bias.to(x.dtype)[:, None, None])


class ToImage(nn.Module):
    """A modulated 1x1 convolution to the channels of the image, without demodulation."""

    def __init__(self, channels: int, outputs: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels, outputs, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Maps, w: Float[Tensor, "B S"]) -> Float[Tensor, "B D H W"]:
        return self.conv(x, w).float() + self.bias[:, None, None]  # type: ignore[no-any-return]


class UnitClassEmbedding(nn.Module):
    """Classes to vectors of unit size."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.embed = EqualizedLinear(num_classes, dim)
        self.num_classes = num_classes

    def forward(self, labels: Labels) -> Float[Tensor, "B D"]:
        return unit_size(self.embed(F.one_hot(labels, self.num_classes).float()))


def minibatch_deviation(x: Maps, group_size: int) -> Float[Tensor, "B D H W"]:
    """Adds a channel: the mean standard deviation within groups of images.

    It shows the discriminator whether generated images resemble one another. The size of a group
    is the largest divisor of the batch up to `group_size`; a group takes every (B / size)-th image.
    Source: Karras et al. 2018 (Progressive GAN), section 3.
    """
    batch, _, height, width = x.shape
    size = next(n for n in range(min(group_size, batch), 0, -1) if batch % n == 0)
    groups = x.float().view(size, batch // size, *x.shape[1:])
    variance = groups.var(0, correction=0)
    deviation = (variance + 1e-8).sqrt().mean((1, 2, 3)).repeat(size)
    extra = deviation.to(x.dtype).view(batch, 1, 1, 1).expand(-1, -1, height, width)
    return torch.cat([x, extra], dim=1)
