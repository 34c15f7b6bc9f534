"""The performance plan: how the numbers of a run are computed, apart from what they mean.

Precision, memory layout, own kernels, compilation. `speed/plan_search.py` chooses a plan by timing.
The config of the run then records it, so that a resumed run keeps it, a study can compare it, and
samples are drawn with it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from sfumato.core.config import component
from sfumato.core.device import autocast, default_device, tf32
from sfumato.core.generative_model import Phase
from sfumato.data.cache import cache_folder
from sfumato.experiment.experiment import Experiment
from sfumato.speed.allocator import keep_freed_memory
from sfumato.speed.kernels.fused_layers import use_kernels
from sfumato.speed.kernels.norm import NoCompiler, find_compiler, norm_kernel
from sfumato.training.training_config import TrainingConfig

KEYS = ("precision", "layout", "kernels", "compile")


@component
class Plan:
    """How to compute. As it stands it is the reference, which every other plan is checked against.

    Under any plan but the reference optimizers are fused and Muon iterates in bfloat16, float32 is
    TF32 on a GPU, and freed memory stays with the process.

    Args:
        precision: of convolutions and matrix products; weights stay float32. float16 scales the
            loss.
        layout: of images and weights in memory.
        kernels: own compiled kernels for normalization, and direct attention, on a CPU.
        compile: networks through torch.compile; phases that differentiate a gradient stay eager.
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


def fixed_plan(config: TrainingConfig) -> Plan | None:
    """The plan that a config names in full; None where something is left to be chosen."""
    if config.performance == "reference":
        return REFERENCE
    if any(getattr(config, key) == "auto" for key in KEYS):
        return None
    return plan_of(config)


def plan_of(config: TrainingConfig) -> Plan:
    """The plan of a config; what is not chosen yet is that of the reference."""
    if config.performance == "reference":
        return REFERENCE
    given = {key: value for key in KEYS if (value := getattr(config, key)) != "auto"}
    return replace(REFERENCE, **given)


def with_plan(experiment: Experiment, plan: Plan) -> Experiment:
    """The experiment with every part of its plan fixed."""
    keys = {key: getattr(plan, key) for key in KEYS}
    return replace(experiment, training=replace(experiment.training, **keys))


def available(plan: Plan) -> Plan:
    """The plan as far as it can be had on this machine, which a compiler decides."""
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
    """Put a model's weights and layers under a plan; precision comes with `computing`.

    From here on this process does without TF32 but where `computing` or a `Trainer` allows it.

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
    model.performance_plan = plan  # type: ignore[assignment]
    use_kernels(model, norm_kernel(cache_folder() / "kernels") if plan.kernels else None)


def plan_in_force(model: nn.Module) -> Plan:
    """The plan that a model was put under."""
    return getattr(model, "performance_plan", REFERENCE)


@contextmanager
def computing(device: torch.device, plan: Plan) -> Iterator[None]:
    """The context in which forward passes have the precision of a plan."""
    with tf32(plan.is_fast), autocast(device, plan.precision):
        yield


def compiled_forwards(phases: Sequence[Phase]) -> dict[nn.Module, Callable[..., Any]]:
    """The networks that the phases train, with their forward through torch.compile."""
    modules = {phase.module for phase in phases}
    networks = {getattr(module, "network", module) for module in modules}  # a denoiser has one
    return {network: torch.compile(network.forward, dynamic=False) for network in networks}


@contextmanager
def in_place_of(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside the context the modules compute by these functions."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward  # the method of its class shows again
