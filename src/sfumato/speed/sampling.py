"""Drawing images from a trained model, in batches."""

from collections.abc import Callable, Iterator

import torch

from sfumato.core.errors import RunError
from sfumato.core.generative_model import GenerativeModel, OnStep
from sfumato.core.images import Labels, UInt8Images, to_uint8
from sfumato.core.noise import Noise
from sfumato.speed.memory import images_at_once
from sfumato.speed.plan import REFERENCE, Plan, computing


def sample_batches(
    model: GenerativeModel,
    labels: Labels | None,
    seeds: range,
    batch_size: int | None = None,
    plan: Plan = REFERENCE,
    on_step: OnStep | None = None,
) -> Iterator[UInt8Images]:
    """Generate one image (uint8, on the CPU) for each seed, in batches.

    Image i depends on seeds[i] and labels[i] alone.

    Args:
        batch_size: None: as many as fit into memory, at most 128 on a CPU.
        plan: how to compute; for a run that of `load_run`.
    """
    device = next(model.parameters()).device
    if batch_size is None:
        with torch.inference_mode(), computing(device, plan):
            batch_size = images_at_once(model, labels)
    for start in range(0, len(seeds), batch_size):
        part = slice(start, start + batch_size)
        chosen = None if labels is None else labels[part]
        with torch.inference_mode(), computing(device, plan):
            images = to_uint8(model.sample(chosen, Noise(seeds[part]), on_step)).cpu()
        yield images


def sample_images(
    model: GenerativeModel,
    labels: Labels | None,
    seeds: range,
    batch_size: int | None = None,
    plan: Plan = REFERENCE,
    on_progress: Callable[[int], None] | None = None,
) -> UInt8Images:
    """All images of `sample_batches`.

    Args:
        on_progress: receives the number of images drawn so far, after each batch.
    """
    parts: list[UInt8Images] = []
    done = 0
    for images in sample_batches(model, labels, seeds, batch_size, plan):
        parts.append(images)
        done += len(images)
        if on_progress is not None:
            on_progress(done)
    return torch.cat(parts)


def balanced_labels(count: int, classes: list[int]) -> Labels:
    """`count` labels that go through `classes` in blocks of (nearly) equal size."""
    return torch.tensor([classes[i * len(classes) // count] for i in range(count)])


def class_numbers(names: list[str], class_names: list[str]) -> list[int]:
    """Numbers of classes given by name or number.

    Raises:
        RunError: there is no such class; lists those that exist.
    """
    numbers = []
    for name in names:
        if name in class_names:
            numbers.append(class_names.index(name))
        elif name.isdecimal() and int(name) < len(class_names):
            numbers.append(int(name))
        else:
            raise RunError(f"there is no class {name!r}; the classes are {', '.join(class_names)}")
    return numbers
