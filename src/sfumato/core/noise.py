"""Random streams. Nothing in the package draws from a global generator.

When sampling, image i depends on its own seed alone, whatever the batch size. When training, the
draws of a step depend on (seed, step) alone: every process draws for the global batch and takes
its slice, so that neither a restart nor the number of processes changes a result.

All draws are made on the CPU, where they are the same on every machine, and moved afterwards.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

Draw = Callable[[tuple[int, ...], torch.Generator], Tensor]


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed, a fixed function of `parts`; other parts give another seed."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded from `parts`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


class RandomStream(ABC):
    """A source of random numbers for a batch of images; each call draws new ones."""

    @abstractmethod
    def _draw(self, draw: Draw, shape: tuple[int, ...]) -> Tensor:
        """Stack one draw of `shape` per image."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    def normal(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Standard normal float32 numbers, `shape` for each image, on the CPU."""
        return self._draw(lambda size, g: torch.randn(size, generator=g), shape)

    def uniform(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Uniform float64 numbers in [0, 1), `shape` for each image, on the CPU."""
        return self._draw(lambda size, g: torch.rand(size, generator=g, dtype=torch.float64), shape)

    def stratified(self) -> Float64[Tensor, " B"]:
        """Uniform numbers in (0, 1), one in each of B equal parts for a step of B images.

        The sampler of low discrepancy of Kingma et al. 2021 (Variational diffusion models): one
        random offset for all, (i + u) / B. Noise of single images is plainly uniform.
        """

        def draw(size: tuple[int, ...], g: torch.Generator) -> Tensor:
            count = math.prod(size)  # 1 for the noise of a single image, whose size is ()
            offset = torch.rand((), generator=g, dtype=torch.float64)
            spread = (torch.arange(count, dtype=torch.float64) + offset) / count
            return spread.clamp(2**-53, 1 - 2**-53).reshape(size)

        return self._draw(draw, ())

    def integers(self, high: int, *shape: int) -> Int64[Tensor, "B ..."]:
        """Integers in 0..high-1, `shape` for each image, on the CPU."""
        return self._draw(lambda size, g: torch.randint(high, size, generator=g), shape)

    def normal_like(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Standard normal numbers with the shape, dtype and device of `x`."""
        assert len(x) == len(self), f"noise for {len(self)} images asked for {len(x)}"
        return self.normal(*x.shape[1:]).to(x, non_blocking=True)

    def first(self, count: int) -> "RandomStream":
        """The streams of the first `count` images."""
        return _First(self, count)


class Noise(RandomStream):
    """Noise(seeds): everything drawn for image i depends on seeds[i] alone."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def _draw(self, draw: Draw, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([draw(shape, g) for g in self._generators])


class _First(RandomStream):
    """The streams of the first images of another."""

    def __init__(self, streams: RandomStream, count: int) -> None:
        self._streams, self._count = streams, count

    def __len__(self) -> int:
        return min(self._count, len(self._streams))

    def _draw(self, draw: Draw, shape: tuple[int, ...]) -> Tensor:
        return self._streams._draw(draw, shape)[: self._count]


class TrainingNoise(RandomStream):
    """The draws of one training step: a function of the seed parts and of the global batch.

    Args:
        parts: what the stream is a function of, for example (seed, step, phase name).
        global_batch: images in the step, over all processes and micro-batches.
        which: the images of this process and micro-batch.
    """

    def __init__(self, *parts: int | str, global_batch: int, which: slice | None = None) -> None:
        self._generator = generator(*parts)
        self._global_batch = global_batch
        self._which = which or slice(0, global_batch)

    def __len__(self) -> int:
        return len(range(*self._which.indices(self._global_batch)))

    def _draw(self, draw: Draw, shape: tuple[int, ...]) -> Tensor:
        return draw((self._global_batch, *shape), self._generator)[self._which]
