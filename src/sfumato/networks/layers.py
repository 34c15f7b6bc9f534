"""Building blocks shared by the networks."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.images import Labels
from sfumato.networks.shapes import Embedding, Maps, Resample
from sfumato.speed.kernels.fused_layers import Attention, GroupNorm


def group_norm(channels: int, groups: int = 32) -> GroupNorm:
    """GroupNorm with `groups` groups, as published, or fewer: a group has at least 4 channels.

    A group of one channel would remove whatever is added to the channel as a whole, and that is
    how the time and the class come in.
    """
    if channels % groups or channels < 4 * groups:
        groups = math.gcd(groups, max(1, channels // 4), channels)
    return GroupNorm(groups, channels, eps=1e-6)


def norm_silu(
    norm: GroupNorm,
    x: Maps,
    scale: Float[Tensor, "B C 1 1"] | None = None,
    shift: Float[Tensor, "B C 1 1"] | None = None,
) -> Maps:
    """SiLU of the normalized x, or of (1 + scale) norm(x) + shift."""
    modulation = [None if m is None else m.flatten(1) for m in (scale, shift)]
    return norm(x, *modulation, activation="silu")  # type: ignore[no-any-return]


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts as zero, so that a residual branch starts as nothing."""

    def reset_parameters(self) -> None:
        """Zeros."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def glorot(network: nn.Module, attention_variance: float = 1.0) -> None:
    """Draw uniform weights of variance 2 / (fan in + fan out), and set biases to zero.

    What starts as zero stays so. Queries, keys and values are layers of their own, whose variance
    is multiplied by `attention_variance`. Source: Glorot & Bengio 2010, eq. 16, as in Ho et al.
    2020 (variance 1) and Song et al. 2021 (0.1).
    """
    projections = {m.qkv for m in network.modules() if isinstance(m, SelfAttention)}
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear) or isinstance(module, ZeroConv2d):
            continue
        is_projection = module in projections
        for part in module.weight.chunk(3 if is_projection else 1):
            variance = attention_variance if is_projection else 1.0
            nn.init.xavier_uniform_(part, gain=math.sqrt(variance))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SinusoidalEmbedding(nn.Module):
    """Maps a noise label to sines and cosines of geometrically spaced frequencies.

    Source: Vaswani et al. 2017, section 3.5: `dim / 2` frequencies from 1 down to 1 / max_period,
    which is the last one (as in DDPM), or with `endpoint = False` the one that would follow.
    Computed in float32 whatever the autocast precision: bfloat16 cannot tell step 999 from step
    1000.
    """

    frequencies: Tensor

    def __init__(self, dim: int, max_period: float = 10_000.0, endpoint: bool = True) -> None:
        super().__init__()
        half = dim // 2
        exponents = torch.arange(half, dtype=torch.float32) / (half - endpoint)
        self.register_buffer("frequencies", max_period**-exponents, persistent=False)

    def forward(self, noise_label: Float[Tensor, " B"]) -> Float[Tensor, "B dim"]:
        angles = noise_label.float()[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast leaves computations on the device of x alone."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class TimeEmbedding(nn.Module):
    """Sinusoidal features of the noise level through two linear layers (Ho et al. 2020, app. B).

    In float32 throughout, whatever the autocast precision.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.features = SinusoidalEmbedding(features)
        self.linear_1 = nn.Linear(features, dim)
        self.linear_2 = nn.Linear(dim, dim)
        self.embed_augment: nn.Linear | None = None

    def take_augment_labels(self, count: int) -> None:
        """Accept `count` numbers that describe how an image was augmented.

        A linear map without bias, so that zeros add nothing. Its weights start as zeros.
        Source: Karras et al. 2022 (EDM), appendix F.2.
        """
        self.embed_augment = nn.Linear(count, self.linear_1.in_features, bias=False)
        nn.init.zeros_(self.embed_augment.weight)

    def forward(
        self,
        noise_label: Float[Tensor, " B"],
        added: Float[Tensor, "B F"] | float = 0.0,
        augment_labels: Float[Tensor, "B A"] | None = None,
    ) -> Embedding:
        """The embedding of the noise level, with `added` to its sinusoidal features."""
        with full_precision(noise_label):
            if augment_labels is not None:
                assert self.embed_augment is not None, "call take_augment_labels first"
                added = added + self.embed_augment(augment_labels)
            hidden = F.silu(self.linear_1(self.features(noise_label) + added))
            return self.linear_2(hidden)  # type: ignore[no-any-return]


class ClassEmbedding(nn.Module):
    """A vector for each class and one for the null class, `num_classes`: the unlabelled case."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(num_classes + 1, dim)

    def forward(self, labels: Labels | None, count: int) -> Embedding:
        """The vectors of `labels`; None means `count` times the null class."""
        if labels is None:
            return self.vectors.weight[-1].expand(count, -1)
        return self.vectors(labels)  # type: ignore[no-any-return]


def conditioning(
    embed_time: nn.Module,
    embed_class: ClassEmbedding | None,
    noise_label: Float[Tensor, " B"],
    labels: Labels | None,
) -> Embedding:
    """SiLU of the embedding of the noise level and, in a conditional network, of the class."""
    embedding: Tensor = embed_time(noise_label)
    if embed_class is not None:
        embedding = embedding + embed_class(labels, len(noise_label))
    return F.silu(embedding)


def attend_tokens(
    attend: Attention, qkv: Float[Tensor, "B N D"], heads: int
) -> Float[Tensor, "B N C"]:
    """Multi-head attention among tokens, from their queries, keys and values."""
    batch, count, triple = qkv.shape
    parts = qkv.view(batch, count, 3, heads, triple // (3 * heads))
    q, k, v = parts.transpose(1, 3).unbind(2)
    return attend(q, k, v).transpose(1, 2).flatten(2)  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm and SiLU, conditioned on an embedding.

    Args:
        scale_shift: adaptive group normalization (Dhariwal & Nichol 2021): the embedding scales
            and shifts the second normalization's output. Otherwise it is added before it.
        resample: halve or double the resolution of both branches (Brock et al. 2019, BigGAN).
        project_skip: a 1x1 convolution on the skip branch even where the width stays.
        skip_scale: multiplies the sum of both branches; sqrt(1/2) keeps its variance.
        groups: of the normalization.

    Source: Ho et al. 2020, appendix B.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        dropout: float,
        scale_shift: bool,
        *,
        resample: Resample | None = None,
        project_skip: bool = False,
        skip_scale: float = 1.0,
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.skip_scale = skip_scale
        self.norm_1 = group_norm(channels, groups)
        self.conv_1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.project = nn.Linear(embedding, out_channels * (2 if scale_shift else 1))
        self.norm_2 = group_norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = ZeroConv2d(out_channels, out_channels, 3, padding=1)
        straight = channels == out_channels and not project_skip
        self.skip = nn.Identity() if straight else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Maps, embedding: Embedding) -> Float[Tensor, "B D H2 W2"]:
        h: Tensor = norm_silu(self.norm_1, x)
        if self.resample is not None:
            h, x = resampled(h, self.resample), resampled(x, self.resample)
        h = self.conv_1(h)
        condition = self.project(embedding)[:, :, None, None]
        if self.scale_shift:
            h = norm_silu(self.norm_2, h, *condition.chunk(2, dim=1))
        else:
            h = norm_silu(self.norm_2, h + condition)
        h = self.skip(x) + self.conv_2(self.dropout(h))
        return h if self.skip_scale == 1 else h * self.skip_scale


class SelfAttention(nn.Module):
    """Multi-head self-attention over the positions of a feature map, as a residual branch."""

    def __init__(
        self, channels: int, heads: int, skip_scale: float = 1.0, groups: int = 32
    ) -> None:
        super().__init__()
        self.heads = heads
        self.skip_scale = skip_scale
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.attend = Attention()
        self.out = ZeroConv2d(channels, channels, 1)

    def forward(self, x: Maps) -> Maps:
        batch, channels, height, width = x.shape
        # flatten(2) makes a view in either memory format
        qkv: Tensor = self.qkv(self.norm(x)).flatten(2)
        qkv = qkv.view(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        h: Tensor = self.attend(q, k, v).transpose(-1, -2).flatten(1, 2)
        h = self.out(h.view(batch, channels, height, width)) + x
        return h if self.skip_scale == 1 else h * self.skip_scale


class Downsample(nn.Module):
    """Halves the resolution by a strided 3x3 convolution.

    Args:
        pad_end: pad below and on the right only, as DDPM does; otherwise on all sides, as ADM.
    """

    def __init__(self, channels: int, pad_end: bool) -> None:
        super().__init__()
        self.pad_end = pad_end
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if pad_end else 1)

    def forward(self, x: Maps, embedding: Embedding) -> Float[Tensor, "B C H2 W2"]:
        """The embedding is not used: a residual block in this place would use it."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.pad_end else x)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Doubles the resolution: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Maps, embedding: Embedding) -> Float[Tensor, "B C H2 W2"]:
        """The embedding is not used: a residual block in this place would use it."""
        return self.conv(resampled(x, "up"))  # type: ignore[no-any-return]


def resampled(x: Maps, how: Resample) -> Float[Tensor, "B C H2 W2"]:
    """Half the resolution by means of 2x2 pixels, or twice the resolution by repeating them."""
    if how == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
