"""Compiled networks in sampling: where a plan has them, and where they pay."""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from sfumato.core.console import say_once
from sfumato.core.distributed import is_sharded
from sfumato.core.generative_model import GenerativeModel
from sfumato.diffusion.denoiser import Denoiser
from sfumato.speed.plan import Plan

COMPILE_PAYS = 600.0
"""Seconds that the batches still to be drawn take eagerly, from which on the networks are compiled.
Compiling takes half a minute to two on a CPU, and that twice where guidance has an interval."""

_failed: WeakSet[nn.Module] = WeakSet()


def worth_compiling(
    model: nn.Module, plan: Plan, seconds_left: float
) -> dict[nn.Module, Callable[..., Any]]:
    """The networks that sampling evaluates, with a compiled forward; none where it does not pay.

    A forward that cannot be compiled is computed eagerly, which is said once.

    Args:
        plan: whether anything is compiled.
        seconds_left: that the batches to come would take eagerly.
    """
    if not plan.compile or seconds_left <= COMPILE_PAYS or is_sharded(model):
        return {}
    return {network: _or_eager(network) for network in _networks(model) - set(_failed)}


def _networks(model: nn.Module) -> set[nn.Module]:
    """Those of denoisers. A GAN's is evaluated once an image, a classifier's is differentiated."""
    assert isinstance(model, GenerativeModel)
    parts = model.sampled_module.modules()
    return {part.network for part in parts if isinstance(part, Denoiser)}


def _or_eager(network: nn.Module) -> Callable[..., Any]:
    """The forward of a network through torch.compile, or as it is if that fails."""
    eager = network.forward
    compiled = torch.compile(eager, dynamic=False)

    def forward(*inputs: Any) -> Any:
        if network in _failed:
            return eager(*inputs)
        try:
            return compiled(*inputs)
        except (RuntimeError, OSError) as trouble:  # a compiler fails in many ways
            _failed.add(network)
            reason = str(trouble).strip().split("\n")[0][:200]
            say_once(f"sampling goes on without torch.compile, which failed: {reason}")
            return eager(*inputs)

    return forward
