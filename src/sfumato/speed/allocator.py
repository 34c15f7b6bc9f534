"""What the C library does with memory that tensors on a CPU give back."""

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 2**31 - 1
"""Bytes at the end of the heap that stay with the process; the largest number mallopt takes."""
LARGEST_BLOCK = 2**30
"""Bytes of a tensor from which on memory comes from the system, and goes back to it."""


@cache
def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, where the C library is glibc.

    By default glibc returns the memory of every large tensor to the system, which then clears
    every page of the next one: a quarter of the time of training (docs/results/speed.md).
    Changes no number. Acts once; returns whether it did.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
