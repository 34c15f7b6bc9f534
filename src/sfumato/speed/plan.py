"""The performance plan: how the numbers of a run are computed, apart from what they mean.

Precision, memory layout, own kernels, compilation. `plan_search.py` chooses one by timing. The
config of the run records it, so that a resumed run keeps it, a study can compare it, and samples
are drawn with it. Functions that compute with a model take the plan as an argument.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from sfumato.core.config import component
from sfumato.core.distributed import default_device
from sfumato.core.files import cache_folder
from sfumato.core.generative_model import Phase
from sfumato.speed.kernels.fused_layers import use_kernels
from sfumato.speed.kernels.norm import NoCompiler, find_compiler, norm_kernel
from sfumato.speed.memory import keep_freed_memory


@component
class Plan:
    """How to compute. As it stands it is the reference, which every other plan is checked against.

    Under any plan but the reference optimizers are fused and Muon iterates in bfloat16, float32 is
    TF32 on a GPU, and freed memory stays with the process.

    Args:
        precision: of convolutions and matrix products; weights stay float32. float16 scales the
            loss.
        layout: of images and weights in memory.
        kernels: own compiled kernels for channels-last normalization, and direct attention, on a
            CPU.
        compile: training through torch.compile, where the config asks for it; never chosen by
            itself: on a CPU the kernels are faster (docs/results/speed/train_step_tried.md).
            Phases that differentiate a gradient and sampling stay eager.
    """

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    layout: Literal["contiguous", "channels_last"] = "contiguous"
    kernels: bool = False
    compile: bool = False

    def __str__(self) -> str:
        """For people: `bfloat16, channels last, kernels`."""
        words = [self.precision, self.layout.replace("_", " ")]
        words += ["kernels"] * self.kernels + ["compiled"] * self.compile
        return ", ".join(words)

    @property
    def is_fast(self) -> bool:
        """Whether it is any but the reference."""
        return self != REFERENCE


REFERENCE = Plan()


def available(plan: Plan) -> Plan:
    """The plan without what is unavailable on this machine: kernels need a C++ compiler."""
    if plan.compile and not can_compile(default_device()):
        plan = replace(plan, compile=False)
    if not plan.kernels:
        return plan
    try:
        norm_kernel(cache_folder() / "kernels")
    except NoCompiler:
        return replace(plan, kernels=False)
    return plan


def can_compile(device: torch.device) -> bool:
    """Whether networks can be compiled for a device: for a CPU, torch.compile writes C++."""
    return device.type != "cpu" or find_compiler() is not None


def compiling_fails(device: torch.device) -> str | None:
    """Why not even the smallest function can be compiled; None if one can."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except RuntimeError as trouble:
        return str(trouble).strip().split("\n")[0]
    return None


def apply_plan(model: nn.Module, plan: Plan) -> None:
    """Lay out the weights of a model and choose the kernels of its layers as a plan says.

    Call it once a model is on its device. Precision comes with `computing`. From here on this
    process does not use TF32, except where `computing` or a `Trainer` allows it.

    Raises:
        NoCompiler: the plan has kernels, and they cannot be built.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if plan.is_fast:
        keep_freed_memory()
    is_channels_last = plan.layout == "channels_last"
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 4:
                # Not `contiguous`: weights for one channel count as either, and grey images would
                # keep the first layers contiguous.
                laid_out = torch.empty_like(parameter.data, memory_format=layout)
                parameter.data = laid_out.copy_(parameter.data)
    use_kernels(model, norm_kernel(cache_folder() / "kernels") if plan.kernels else None)


@contextmanager
def computing(device: torch.device, plan: Plan) -> Iterator[None]:
    """The context in which forward passes have the precision of a plan."""
    with tf32(plan.is_fast), autocast(device, plan.precision):
        yield


def compile_networks(phases: Sequence[Phase]) -> None:
    """Let the networks that the phases train compute through torch.compile.

    Use `eagerly` where they must not.
    """
    modules = {phase.module for phase in phases}
    for network in {getattr(module, "network", module) for module in modules}:  # of a denoiser
        network.compile(dynamic=False)


def eagerly(compiled: bool) -> AbstractContextManager[object]:
    """A context in which networks compute without the compiler, if they are `compiled`."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


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
