"""A compiled kernel: group normalization, scale and shift, and an activation in one pass.

PyTorch's GroupNorm is many times slower in channels-last bfloat16 on a CPU than in the contiguous
format, and eats what channels-last convolutions gain. The kernel is plain C++ (norm.cpp):
compiled in seconds by whatever compiler there is, once for a machine, and called through ctypes.
Without a compiler everything works, by PyTorch's own operations (`reference`).
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.errors import SfumatoError

Activation = Literal["none", "silu", "gelu"]
ACTIVATIONS: tuple[Activation, ...] = ("none", "silu", "gelu")  # numbered as in the source

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
# Threads are those of the OpenMP library that PyTorch has loaded, hence no library is linked:
# two thread pools would fight for the cores.
THREADS = ("-Xpreprocessor", "-fopenmp")
MACHINE = ("-march=native", "-mcpu=native")
COMPILERS = ("c++", "g++", "clang++")
KINDS = {torch.float32: "float", torch.bfloat16: "bfloat16", torch.float64: "double"}


class NoCompiler(SfumatoError):
    """The kernel cannot be built here."""


def find_compiler() -> str | None:
    """The C++ compiler: CXX of the environment, c++, g++ or clang++."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))), None)


class NormKernel:
    """The compiled kernel. Get it from `norm_kernel`."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        sizes, switches = [size] * 5, [ctypes.c_int] * 2
        self._forward: dict[torch.dtype, Any] = {}
        self._backward: dict[torch.dtype, Any] = {}
        for dtype, kind in KINDS.items():
            forward = getattr(loaded, f"forward_{kind}")
            forward.argtypes = [*[pointer] * 6, *sizes, ctypes.c_double, *switches]
            backward = getattr(loaded, f"backward_{kind}")
            backward.argtypes = [*[pointer] * 9, *sizes, *switches]
            forward.restype = backward.restype = None
            self._forward[dtype], self._backward[dtype] = forward, backward

    def takes(self, x: Tensor) -> bool:
        """Whether the kernel can do it: float32, bfloat16 or float64 images on the CPU."""
        return x.device.type == "cpu" and x.ndim == 4 and x.dtype in KINDS and x.numel() > 0

    def __call__(
        self,
        x: Float[Tensor, "B C H W"],
        a: Tensor,
        b: Tensor,
        groups: int,
        eps: float,
        activation: Activation,
    ) -> Float[Tensor, "B C H W"]:
        """`reference`, in one pass. The result has the memory format and dtype of x."""
        real = torch.float64 if x.dtype == torch.float64 else torch.float32
        a, b = a.to(real).contiguous(), b.to(real).contiguous()
        if not _is_channels_last(x):
            x = x.contiguous()
        return _Normalize.apply(x, a, b, groups, eps, activation, self)  # type: ignore[no-any-return]

    def run_forward(
        self, x: Tensor, a: Tensor, b: Tensor, groups: int, eps: float, activation: Activation
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y, and the mean and 1 / std of each group."""
        y = torch.empty_like(x)
        mean, rstd = a.new_empty(len(x), groups), a.new_empty(len(x), groups)
        pointers = [t.data_ptr() for t in (x, a, b, y, mean, rstd)]
        sizes, switches = _numbers(x, a, groups, activation)
        self._forward[x.dtype](*pointers, *sizes, eps, *switches)
        return y, mean, rstd

    def run_backward(
        self,
        dy: Tensor,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        mean: Tensor,
        rstd: Tensor,
        activation: Activation,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of x, a and b."""
        dx = torch.empty_like(x)
        da, db = a.new_empty(x.shape[:2]), a.new_empty(x.shape[:2])
        pointers = [t.data_ptr() for t in (dy, x, a, b, mean, rstd, dx, da, db)]
        sizes, switches = _numbers(x, a, mean.shape[1], activation)
        self._backward[x.dtype](*pointers, *sizes, *switches)
        return (dx, da, db) if a.ndim == 2 else (dx, da.sum(0), db.sum(0))


def reference(
    x: Float[Tensor, "B C H W"],
    a: Tensor,
    b: Tensor,
    groups: int,
    eps: float,
    activation: Activation,
) -> Float[Tensor, "B C H W"]:
    """The activation of a * (x normalized in groups) + b, by PyTorch's operations.

    Args:
        x: images.
        a, b: one number a channel, shape [C], or a channel and image, [B, C].
        groups: of channels that are normalized together.
        eps: added to the variance.
        activation: applied at the end.
    """
    if a.ndim == 1:
        h = F.group_norm(x, groups, a.to(x), b.to(x), eps)
    else:
        h = F.group_norm(x, groups, eps=eps)
        h = torch.addcmul(b[:, :, None, None].to(h), a[:, :, None, None].to(h), h)
    return activate(h, activation)


def activate(h: Tensor, activation: Activation) -> Tensor:
    """The activation of a given name."""
    if activation == "none":
        return h
    return F.silu(h) if activation == "silu" else F.gelu(h)


class _Normalize(torch.autograd.Function):
    """The kernel with its gradient; the gradient's own gradient is that of `reference`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        groups: int,
        eps: float,
        activation: Activation,
        kernel: NormKernel,
    ) -> Tensor:
        y, mean, rstd = kernel.run_forward(x, a, b, groups, eps, activation)
        ctx.save_for_backward(x, a, b, mean, rstd)
        ctx.given = groups, eps, activation, kernel
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, mean, rstd = ctx.saved_tensors
        groups, eps, activation, kernel = ctx.given
        if torch.is_grad_enabled():  # somebody wants to differentiate the gradient
            inputs = [t for t in (x, a, b) if t.requires_grad]
            y = reference(x, a, b, groups, eps, activation)
            found = iter(torch.autograd.grad(y, inputs, dy, create_graph=True))
            grads = [next(found) if t.requires_grad else None for t in (x, a, b)]
        else:
            layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
            dy = dy.to(x.dtype).contiguous(memory_format=layout)
            grads = [*kernel.run_backward(dy, x, a, b, mean, rstd, activation)]
        return (*grads, None, None, None, None)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _numbers(
    x: Tensor, a: Tensor, groups: int, activation: Activation
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sizes and switches that both directions take."""
    count, channels, height, width = x.shape
    stride = channels if a.ndim == 2 else 0
    switches = ACTIVATIONS.index(activation), int(_is_channels_last(x))
    return (count, channels, height * width, groups, stride), switches


@cache
def norm_kernel(folder: Path) -> NormKernel:
    """The kernel, built in `folder` unless it is there already.

    Raises:
        NoCompiler: there is no C++ compiler, or it fails.
    """
    source = SOURCE.read_bytes()
    machine = f"{platform.machine()} {platform.processor()} {_cpu_features()}"
    name = hashlib.sha256(source + machine.encode()).hexdigest()[:16]
    library = folder / f"norm-{name}.so"
    if not library.exists():
        _build(library)
    try:
        return NormKernel(library)
    except OSError as error:
        raise NoCompiler(f"cannot load {library}: {error}; delete it to have it built") from None


def _cpu_features() -> str:
    """What distinguishes processors that share a home folder."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return ""
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _build(library: Path) -> None:
    compiler = find_compiler()
    if compiler is None:
        raise NoCompiler(f"found no C++ compiler (CXX, {', '.join(COMPILERS)}); install one")
    partial = library.with_suffix(f".{os.getpid()}.partial")
    complaint = ""
    for machine in MACHINE:
        for threads in (THREADS, ()):
            command = [compiler, *FLAGS, *threads, machine, str(SOURCE), "-o", str(partial)]
            try:
                library.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
                ctypes.CDLL(str(partial))  # whether OpenMP is there shows only now
                partial.replace(library)
                return
            except subprocess.CalledProcessError as error:
                complaint = complaint or str(error.stderr).strip()
            except (OSError, subprocess.TimeoutExpired) as error:
                complaint = complaint or str(error)
            finally:
                partial.unlink(missing_ok=True)
    raise NoCompiler(f"{compiler} cannot build {SOURCE.name}: {complaint[:500]}")
