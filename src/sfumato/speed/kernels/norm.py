"""A compiled kernel: group normalization, scale and shift, and an activation in one pass.

On a CPU PyTorch's GroupNorm is many times slower in channels-last bfloat16 than in the contiguous
format, which undoes the gain of channels-last convolutions. The kernel is for channels last alone.
It is plain C++ (norm.cpp), compiled once per machine in seconds and called through ctypes. Without
a compiler PyTorch's own operations take its place (`reference`).

Gain, with channels last, over bfloat16 contiguous without kernels: training steps are 1.14, 0.93,
1.14 and 1.28 times as fast, network evaluations 1.20, 1.03, 1.05 and 1.32 times, on four networks
(docs/results/speed/train_step.md, sample_step.md; GroupNorm by itself: norm.md). The plan search
leaves it out where it does not pay.
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
# The threads are those of the OpenMP library that PyTorch has loaded. No other one is linked: two
# thread pools would compete for the cores.
THREADS = ("-Xpreprocessor", "-fopenmp")
MACHINE = ("-march=native", "-mcpu=native")
COMPILERS = ("c++", "g++", "clang++")
KINDS = {torch.float32: "float", torch.bfloat16: "bfloat16", torch.float64: "double"}


class NoCompiler(SfumatoError):
    """The kernel is unavailable: it cannot be built here."""


def find_compiler() -> str | None:
    """The C++ compiler: CXX of the environment, c++, g++ or clang++."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))), None)


class NormKernel:
    """The compiled kernel. Get it from `norm_kernel`."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        sizes = [size] * 5
        self._forward: dict[torch.dtype, Any] = {}
        self._backward: dict[torch.dtype, Any] = {}
        for dtype, kind in KINDS.items():
            forward = getattr(loaded, f"forward_{kind}")
            forward.argtypes = [*[pointer] * 6, *sizes, ctypes.c_double, ctypes.c_int]
            backward = getattr(loaded, f"backward_{kind}")
            backward.argtypes = [*[pointer] * 9, *sizes, ctypes.c_int]
            forward.restype = backward.restype = None
            self._forward[dtype], self._backward[dtype] = forward, backward

    def takes(self, x: Tensor) -> bool:
        """Whether the kernel can do it: channels-last images on the CPU, of a dtype in KINDS."""
        is_image = x.device.type == "cpu" and x.ndim == 4 and x.numel() > 0
        return is_image and x.dtype in KINDS and x.is_contiguous(memory_format=torch.channels_last)

    def __call__(
        self,
        x: Float[Tensor, "B C H W"],
        a: Tensor,
        b: Tensor,
        groups: int,
        eps: float,
        activation: Activation,
    ) -> Float[Tensor, "B C H W"]:
        """`reference`, in one pass. The result is channels last and has the dtype of x."""
        real = torch.float64 if x.dtype == torch.float64 else torch.float32
        a, b = a.to(real).contiguous(), b.to(real).contiguous()
        return _Normalize.apply(x, a, b, groups, eps, activation, self)  # type: ignore[no-any-return]

    def run_forward(
        self, x: Tensor, a: Tensor, b: Tensor, groups: int, eps: float, activation: Activation
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y, and the mean and 1 / std of each group."""
        y = torch.empty_like(x)
        mean, rstd = a.new_empty(len(x), groups), a.new_empty(len(x), groups)
        pointers = [t.data_ptr() for t in (x, a, b, y, mean, rstd)]
        self._forward[x.dtype](*pointers, *_sizes(x, a, groups), eps, ACTIVATIONS.index(activation))
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
        sizes = _sizes(x, a, mean.shape[1])
        self._backward[x.dtype](*pointers, *sizes, ACTIVATIONS.index(activation))
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
        a, b: one number per channel, shape [C], or per channel and image, [B, C].
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
    """An activation by name."""
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
        if torch.is_grad_enabled():  # the gradient will be differentiated
            inputs = [t for t in (x, a, b) if t.requires_grad]
            y = reference(x, a, b, groups, eps, activation)
            found = iter(torch.autograd.grad(y, inputs, dy, create_graph=True))
            grads = [next(found) if t.requires_grad else None for t in (x, a, b)]
        else:
            dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
            grads = [*kernel.run_backward(dy, x, a, b, mean, rstd, activation)]
        return (*grads, None, None, None, None)


def _sizes(x: Tensor, a: Tensor, groups: int) -> tuple[int, ...]:
    """The sizes that both directions take."""
    count, channels, height, width = x.shape
    return count, channels, height * width, groups, channels if a.ndim == 2 else 0


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
        raise NoCompiler(f"cannot load {library}: {error}; delete it to build it again") from None


def _cpu_features() -> str:
    """Distinguishes processors that share a home folder."""
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
                ctypes.CDLL(str(partial))  # fails here if OpenMP is missing
                partial.replace(library)
                return
            except subprocess.CalledProcessError as error:
                complaint = complaint or str(error.stderr).strip()
            except (OSError, subprocess.TimeoutExpired) as error:
                complaint = complaint or str(error)
            finally:
                partial.unlink(missing_ok=True)
    raise NoCompiler(f"{compiler} cannot build {SOURCE.name}: {complaint[:500]}")
