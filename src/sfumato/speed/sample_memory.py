"""How many images may be drawn at once: what one of them needs, and what is free."""

from weakref import WeakKeyDictionary

import psutil
import torch
from torch import nn

from sfumato.core.generative_model import GenerativeModel
from sfumato.core.images import Labels
from sfumato.core.noise import Noise
from sfumato.speed.live_memory import LiveMemory
from sfumato.speed.plan import Plan, plan_in_force

SHARE = 0.5
"""Of the free memory that images are allowed to take: kernels need some that is not counted."""
MOST = 512
MOST_ON_CPU = 128
"""More at once are no faster, and on a CPU slower (docs/results/speed.md)."""

_needed: WeakKeyDictionary[nn.Module, dict[tuple[bool, torch.device, Plan], int]] = (
    WeakKeyDictionary()
)
"""Bytes for an image more, by model, and by whether it has a label, device and plan."""


def images_at_once(model: GenerativeModel, labels: Labels | None, free: int | None = None) -> int:
    """The number of images to draw at once, so that they fit into memory.

    Call it in the context in which the images will be drawn. What an image needs is found once for
    a model, what is free anew in every call.

    Args:
        model: a generative model.
        labels: of the images to be drawn; the first is taken.
        free: bytes; None: what is free on the model's device now.
    """
    device = next(model.parameters()).device
    if free is None:
        free = _free_memory(device)
    known = _needed.setdefault(model, {})
    key = (labels is not None, device, plan_in_force(model))
    if key not in known:
        # The second image costs what one costs; the first, what does not depend on their number.
        known[key] = max(_peak(model, labels, 2) - _peak(model, labels, 1), 1)
    most = MOST_ON_CPU if device.type == "cpu" else MOST
    return max(1, min(most, int(SHARE * free / known[key])))


def _peak(model: GenerativeModel, labels: Labels | None, count: int) -> int:
    """Bytes of all tensors alive at once in the costliest step of drawing `count` images."""
    chosen = None if labels is None else labels[:1].repeat(count)
    memory = LiveMemory()
    with memory:
        model.sample_costliest_step(chosen, Noise(range(count)))
    return memory.peak


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return int(psutil.virtual_memory().available)
