"""The diffusion transformer with adaLN-Zero (Peebles & Xie 2023)."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.config import PositiveInt, component
from sfumato.core.generative_model import Blocks
from sfumato.core.images import Labels, Shape
from sfumato.networks.layers import (
    ClassEmbedding,
    SinusoidalEmbedding,
    TimeEmbedding,
    attend_tokens,
    conditioning,
)
from sfumato.networks.shapes import Maps, check_heads, check_patch
from sfumato.speed.kernels.fused_layers import Attention

TIME_FEATURES = 256


@component
class DiTConfig:
    """A transformer over patches; as it stands DiT-S/2 (33 M parameters).

    B: 768 channels, 12 blocks, 12 heads; L: 1024, 24, 16; XL: 1152, 28, 16.

    Args:
        patch: pixels of a side that become one token. Time and memory grow with the square of
            the number of tokens.
        channels: width; a quarter each for sines and cosines of the two coordinates.
        blocks: depth.
        heads: attention heads.
        mlp_ratio: width inside the multilayer perceptrons, in units of `channels`.
    """

    kind: Literal["dit"] = "dit"
    patch: PositiveInt = 2
    channels: Annotated[int, Field(ge=8, multiple_of=4)] = 384
    blocks: PositiveInt = 12
    heads: PositiveInt = 6
    mlp_ratio: PositiveInt = 4

    def __post_init__(self) -> None:
        check_heads("dit", [self.channels], "heads", self.heads)

    def build(self, image_shape: Shape, num_classes: int, out_channels: int | None = None) -> "DiT":
        """The network for images of `image_shape`.

        Raises:
            ConfigError: the image cannot be cut into patches.
        """
        check_patch("dit", image_shape, self.patch)
        return DiT(self, image_shape, num_classes, out_channels or image_shape[0])


class DiT(nn.Module):
    """Maps a noisy image, its noise label and its class to an output image."""

    positions: Tensor

    def __init__(
        self, config: DiTConfig, image_shape: Shape, num_classes: int, out_channels: int
    ) -> None:
        super().__init__()
        channels, patch = config.channels, config.patch
        self.patch = patch
        self.stem = nn.Conv2d(image_shape[0], channels, patch, stride=patch)
        self.embed_time = TimeEmbedding(TIME_FEATURES, channels)
        self.embed_class = ClassEmbedding(num_classes, channels) if num_classes else None
        positions = position_embedding(channels, image_shape[1] // patch, image_shape[2] // patch)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = Blocks(
            TransformerBlock(channels, config.heads, config.mlp_ratio * channels)
            for _ in range(config.blocks)
        )
        self.modulate = nn.Linear(channels, 2 * channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6, elementwise_affine=False)
        self.head = nn.Linear(channels, out_channels * patch**2)
        self._initialize()

    def _initialize(self) -> None:
        """As published: Glorot weights, N(0, 0.02) embeddings, zero modulation and output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.stem.weight.flatten(1))  # a linear layer over a patch
        assert self.stem.bias is not None
        nn.init.zeros_(self.stem.bias)
        for linear in (self.embed_time.linear_1, self.embed_time.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
        if self.embed_class is not None:
            nn.init.normal_(self.embed_class.vectors.weight, std=0.02)
        for zero in (self.modulate, self.head, *(block.modulate for block in self.blocks)):
            nn.init.zeros_(zero.weight)  # type: ignore[union-attr, arg-type]

    def forward(
        self, x: Maps, noise_label: Float[Tensor, " B"], labels: Labels | None = None
    ) -> Float[Tensor, "B D H W"]:
        embedding = conditioning(self.embed_time, self.embed_class, noise_label, labels)
        patches: Tensor = self.stem(x)
        tokens = patches.flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = self.blocks.run(block, tokens, embedding)
        shift, scale = self.modulate(embedding)[:, None].chunk(2, dim=-1)
        tokens = self.head(modulated(self.norm(tokens), shift, scale))
        maps = tokens.transpose(1, 2).reshape(len(x), -1, *patches.shape[2:])
        return F.pixel_shuffle(maps, self.patch)


class TransformerBlock(nn.Module):
    """Attention and a perceptron, both modulated by the embedding, and nothing at first."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulate = nn.Linear(channels, 6 * channels)
        self.norm_1 = nn.LayerNorm(channels, eps=1e-6, elementwise_affine=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.attend = Attention()
        self.out = nn.Linear(channels, channels)
        self.norm_2 = nn.LayerNorm(channels, eps=1e-6, elementwise_affine=False)
        self.linear_1 = nn.Linear(channels, hidden)
        self.linear_2 = nn.Linear(hidden, channels)

    def forward(
        self, x: Float[Tensor, "B N C"], embedding: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B N C"]:
        parts = self.modulate(embedding)[:, None].chunk(6, dim=-1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        qkv = self.qkv(modulated(self.norm_1(x), shift_1, scale_1))
        x = x + gate_1 * self.out(attend_tokens(self.attend, qkv, self.heads))
        hidden = F.gelu(
            self.linear_1(modulated(self.norm_2(x), shift_2, scale_2)), approximate="tanh"
        )
        return x + gate_2 * self.linear_2(hidden)  # type: ignore[no-any-return]


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) x + shift."""
    return torch.addcmul(shift, x, 1 + scale)


def position_embedding(channels: int, height: int, width: int) -> Float[Tensor, "N C"]:
    """Sines and cosines of the column in one half of the channels, of the row in the other."""
    embed = SinusoidalEmbedding(channels // 2, endpoint=False)
    rows = embed(torch.arange(height, dtype=torch.float32))
    columns = embed(torch.arange(width, dtype=torch.float32))
    both = [
        columns[None].expand(height, width, -1),
        rows[:, None].expand(height, width, -1),
    ]
    return torch.cat(both, dim=2).flatten(0, 1)
