"""The order in which images are seen: a fixed function of (number of images, seed, epoch).

It is computed here, not by a library's shuffle, so that a run resumes exactly with another version
of that library.
"""

import numpy as np
from jaxtyping import Int64

from sfumato.core.noise import derive_seed


def permutation(count: int, seed: int, epoch: int) -> Int64[np.ndarray, " count"]:
    """A pseudo-random order of 0..count-1: the indices sorted by SplitMix64 of each.

    Source: Steele et al. 2014 (Fast Splittable Pseudorandom Number Generators).
    """
    key = np.uint64(derive_seed("order", seed, epoch))
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(x ^ (x >> np.uint64(31)), kind="stable").astype(np.int64, copy=False)


class Order:
    """The indices at any position of an endless sequence of epochs."""

    def __init__(self, count: int, seed: int) -> None:
        assert count > 0
        self._count = count
        self._seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def at(self, position: int, size: int) -> Int64[np.ndarray, " size"]:
        """The indices at positions `position` to `position + size - 1`, across epochs."""
        parts = []
        while size > 0:
            epoch, offset = divmod(position, self._count)
            part = self._of(epoch)[offset : offset + size]
            parts.append(part)
            position, size = position + len(part), size - len(part)
        return np.concatenate(parts)

    def _of(self, epoch: int) -> Int64[np.ndarray, " count"]:
        if epoch != self._epoch:
            self._permutation = permutation(self._count, self._seed, epoch)
            self._epoch = epoch
        return self._permutation
