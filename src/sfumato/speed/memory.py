"""Memory: what tensors need, how many images fit, and what the C library does with freed memory."""

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sfumato.core.generative_model import GenerativeModel
from sfumato.core.images import Labels
from sfumato.core.noise import Noise

SHARE = 0.5
"""Share of the free memory that images may take: kernels need some that is not counted."""
MOST = 512
MOST_ON_CPU = 128
"""Largest batch of a CPU: larger ones are not faster (docs/results/speed/batches.md)."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 2**31 - 1
"""Bytes at the end of the heap that stay with the process; the largest number mallopt takes."""
LARGEST_BLOCK = 2**30
"""Bytes of a tensor above which memory comes from the system, and goes back to it."""


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors made inside the context: `peak` is the most at any time.

    Works on any device. Views and in-place operations count once. The work space of kernels is not
    seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current = 0
        self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        before = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._count(tensor.untyped_storage(), before)
        return result

    def _count(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key = storage._cdata
        if key in self._seen or key in before:  # `before`: made outside, changed inside
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.current -= size


def images_at_once(model: GenerativeModel, labels: Labels | None, free: int | None = None) -> int:
    """The number of images to draw at once, so that they fit into memory.

    Finds out by the costliest sampling step of one and of two images. Call it in the context in
    which the images will be drawn.

    Gain on a CPU: 64 to 128 images at once are drawn 1.2 to 3.3 times as fast as 4
    (docs/results/speed/batches.md).

    Args:
        model: a generative model.
        labels: of the images to be drawn; the first is taken.
        free: bytes; None: what is free on the model's device now.
    """
    device = next(model.parameters()).device
    if free is None:
        free = _free_memory(device)
    # What the first image needs in part does not depend on their number.
    needed = max(_peak(model, labels, 2) - _peak(model, labels, 1), 1)
    most = MOST_ON_CPU if device.type == "cpu" else MOST
    return max(1, min(most, int(SHARE * free / needed)))


def _peak(model: GenerativeModel, labels: Labels | None, count: int) -> int:
    """Bytes of all tensors alive at once in the costliest step of drawing `count` images."""
    chosen = None if labels is None else labels[:1].repeat(count)
    with LiveMemory() as memory:
        model.sample_costliest_step(chosen, Noise(range(count)))
    peak: int = memory.peak
    return peak


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return int(psutil.virtual_memory().available)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@cache
def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, where the C library is glibc.

    By default glibc returns the memory of every large tensor to the system, which then clears
    every page of the next one. Changes no number. Acts once; returns whether it did.

    Gain: training steps 1.3 to 1.6 times as fast, network evaluations 1.03 to 1.16 times
    (docs/results/speed/allocator.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
