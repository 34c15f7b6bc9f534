"""What a run would take, from a few timed steps and without writing anything."""

import json
import resource
import statistics
import time
from typing import Any

import torch

from sfumato.core import distributed
from sfumato.core.config import to_mapping
from sfumato.core.device import default_device
from sfumato.data.catalogue import load
from sfumato.experiment.build import build_model
from sfumato.experiment.experiment import Experiment
from sfumato.experiment.training_run import with_decay_fixed
from sfumato.speed.plan import with_plan
from sfumato.speed.plan_search import choose_plan
from sfumato.training.trainer import Trainer

WARM_UP = 2
TIMED = 5


def dry_run(experiment: Experiment) -> str:
    """The resolved config, the parameter count, and estimates of time and memory, as text."""
    experiment = with_decay_fixed(experiment)
    splits = load(experiment.data)
    choice = choose_plan(experiment, splits.train, default_device())
    experiment = with_plan(experiment, choice.plan)
    config = experiment.training
    model = build_model(experiment, splits.train)
    trainer = Trainer(config, model, default_device(), experiment.data.augment)
    share = distributed.local_slice(config.batch_size)
    batches = splits.train.batches(config.batch_size, config.seed, which=share)
    times = []
    for _ in range(WARM_UP + TIMED):
        began = time.perf_counter()
        trainer.step(trainer.prepare(*next(batches)))
        trainer.means.means()  # waits for the device
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times[WARM_UP:])
    steps = _steps(experiment, seconds)
    lines = [
        *_assignments(to_mapping(experiment)),
        "",
        f"data        {len(splits.train):,} training and {len(splits.held_out):,} held-out images, "
        f"{'x'.join(map(str, splits.train.image_shape))}, {splits.train.num_classes} classes",
        f"parameters  {sum(p.numel() for p in trainer.model.parameters()):,}",
        f"time        {_duration(steps * seconds)} for {steps:,} steps of {config.batch_size} "
        f"images ({config.batch_size / seconds:,.0f} img/s, from {TIMED} timed steps)",
        f"plan        {choice}",
        f"memory      {_peak_memory(trainer.device) / 2**30:.1f} GiB at the peak of a step",
    ]
    return "\n".join(lines)


def _steps(experiment: Experiment, seconds: float) -> int:
    config = experiment.training
    if config.budget_steps is not None:
        return config.budget_steps
    if config.budget_images is not None:
        return -(-config.budget_images // config.batch_size)
    assert config.budget_seconds is not None
    return round(config.budget_seconds / seconds)


def _assignments(mapping: dict[str, Any], prefix: str = "") -> list[str]:
    """The config as lines that can be given as overrides."""
    lines = []
    for key, value in mapping.items():
        if isinstance(value, dict):
            lines += _assignments(value, f"{prefix}{key}.")
        elif value is not None:
            lines.append(f"{prefix}{key}={json.dumps(value)}")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else the peak of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
