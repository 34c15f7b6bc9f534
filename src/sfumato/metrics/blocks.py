"""Sets of vectors read a block at a time, so that none is ever widened as a whole."""

import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

LARGEST = 1_000
"""Vectors of a block, where they are short."""
BYTES = 2**26
"""Of a block in float64."""

At = Int64[Tensor, " b"]
"""Positions of the vectors of a block."""


@runtime_checkable
class Rows(Protocol):
    """Vectors, or images, of any type: a tensor (perhaps mapped from a file), or what reads them.

    Images count as vectors of their pixels.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, at: At | slice, /) -> Shaped[Tensor, "b *_"]: ...


def positions(x: Rows, count: int | None = None) -> tuple[At, ...]:
    """0 to `count` - 1 (None: all of them) in blocks as long as the width of the vectors allows."""
    width = max(x[torch.zeros(1, dtype=torch.int64)].numel(), 1)
    longest = max(1, min(LARGEST, BYTES // (8 * width)))
    return torch.split(torch.arange(len(x) if count is None else count), longest)


def read(x: Rows, at: At, dtype: torch.dtype = torch.float64) -> Float[Tensor, "b d"]:
    """A fresh tensor of the vectors at some positions."""
    return x[at].flatten(1).to(dtype)


def blocks(x: Rows, dtype: torch.dtype = torch.float64) -> Iterator[tuple[At, Tensor]]:
    """All vectors, and where they are; a block is overwritten by the next."""
    space = torch.empty(0, dtype=dtype)
    for at in positions(x):
        rows = x[slice(int(at[0]), int(at[-1]) + 1)].flatten(1)
        if len(space) == 0:
            space = torch.empty(rows.shape, dtype=dtype)
        yield at, space[: len(at)].copy_(rows)


def mean_of(x: Rows) -> Float[Tensor, " d"]:
    """The mean vector."""
    return torch.stack([rows.sum(0) for _, rows in blocks(x)]).sum(0) / len(x)


def squared_distances(x: Float[Tensor, "N d"], y: Float[Tensor, "M d"]) -> Float[Tensor, "N M"]:
    """|x_i - y_j|^2 by a product of matrices; those of equal vectors are 0 to rounding."""
    between = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)
    return between.add_(x.square().sum(1, keepdim=True)).clamp_(min=0)


class Smallest:
    """The k smallest numbers of each row of a matrix that is seen in blocks, in ascending order.

    Args:
        rows: of the matrix.
        k: at most the number of its columns.
        dtype: of its numbers.
    """

    def __init__(self, rows: int, k: int, dtype: torch.dtype = torch.float64) -> None:
        self.values: Float[Tensor, "N k"] = torch.full((rows, k), math.inf, dtype=dtype)
        self.columns: Int64[Tensor, "N k"] = torch.zeros(rows, k, dtype=torch.int64)

    def see(
        self,
        rows: Int64[Tensor, " n"],
        columns: Int64[Tensor, " m"],
        block: Float[Tensor, "n m"],
    ) -> None:
        """Take in the block that lies at some rows and columns."""
        k = self.values.shape[1]
        own = block.topk(min(k, block.shape[1]), largest=False)
        values = torch.cat([self.values[rows], own.values], dim=1)
        found = torch.cat([self.columns[rows], columns[own.indices]], dim=1)
        best = values.topk(k, largest=False)
        self.values[rows] = best.values
        self.columns[rows] = found.gather(1, best.indices)
