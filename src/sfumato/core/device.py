"""Which device to compute on, and whether others use the machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

BUSY = 1.25
"""Runnable processes per core, over the last minute, above which a machine is busy."""


def default_device() -> torch.device:
    """The device named by SFUMATO_DEVICE, else this process's CUDA GPU, else the CPU."""
    if name := os.environ.get("SFUMATO_DEVICE"):
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context that computes in `precision` ("float32" switches autocast off)."""
    dtype = torch.bfloat16 if precision == "float32" else getattr(torch, precision)
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "float32")


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Inside, float32 products and convolutions on CUDA are in TF32 or not; then as before."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def compute_threads() -> int:
    """Threads that PyTorch computes with on the CPU."""
    return torch.get_num_threads()


def gpu_name() -> str | None:
    """The name of the current CUDA GPU; None without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def is_busy() -> bool:
    """Whether more processes want the cores of this machine than it has.

    Timings then say little about the machine.
    """
    if not hasattr(os, "getloadavg"):  # Windows
        return False
    return os.getloadavg()[0] > BUSY * (os.cpu_count() or 1)
