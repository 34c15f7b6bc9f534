"""The performance plan of an experiment: as its config says, remembered, or timed now."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.core import distributed
from sfumato.core.config import changeable, is_decisive, to_mapping
from sfumato.core.distributed import default_device, gpu_name
from sfumato.core.errors import SfumatoError
from sfumato.core.files import cache_folder
from sfumato.data.dataset import Dataset
from sfumato.experiment.experiment import Experiment, build_model, with_plan
from sfumato.runs.directory import environment
from sfumato.speed.kernels.fused_layers import has_kernels
from sfumato.speed.kernels.norm import SOURCE, find_compiler
from sfumato.speed.plan import Plan, available, can_compile, compiling_fails
from sfumato.speed.plan_search import Choice, Workload, find_plan, time_plans
from sfumato.training.trainer import Trainer
from sfumato.training.training_config import PLAN_KEYS, fixed_plan, plan_of


def choose_plan(experiment: Experiment, dataset: Dataset, device: torch.device) -> Choice:
    """The plan of a run: as the config says, remembered, or timed now.

    In a process group all processes must call this; they time in step and agree.
    Raises:
        SfumatoError: what the config asks for is unavailable here.
    """
    _check_given(plan_of(experiment.training), device)
    given = fixed_plan(experiment.training)
    if given is not None:
        return Choice(plan=given, source="given")
    return find_plan(workload(experiment, dataset, device))


def with_plans_tried(
    choice: Choice, plans: Iterable[Plan], experiment: Experiment, dataset: Dataset
) -> Choice:
    """The choice with the times of these plans as well. Times the plans not yet measured."""
    return time_plans(choice, plans, workload(experiment, dataset, default_device()))


def workload(experiment: Experiment, dataset: Dataset, device: torch.device) -> Workload:
    """What the plan of an experiment is chosen for: its training step and its length."""
    config = experiment.training
    return Workload(
        step_under=lambda plan: RepeatedStep(with_plan(experiment, plan), dataset, device),
        given={key: v for key in PLAN_KEYS if (v := getattr(config, key)) != "auto"},
        device=device,
        has_kernels=lambda: has_kernels(build_model(experiment, dataset)),
        allows_float16=not config.shard,
        steps=config.budgeted_steps,
        budget_seconds=config.budget_seconds,
        place=_place(experiment, dataset, device),
    )


class RepeatedStep:
    """The first training step of an experiment, again and again.

    The learning rate is next to nothing, so the weights do not move. No weight is zero, so that
    all of the network shows in the gradient; nothing is dropped, since the masks of dropout depend
    on the memory layout.
    """

    def __init__(self, experiment: Experiment, dataset: Dataset, device: torch.device) -> None:
        config = replace(experiment.training, performance="auto", learning_rate=1e-30)
        model = build_model(experiment, dataset)
        wake_zeros(model)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        share = distributed.local_slice(config.batch_size)
        images = next(dataset.batches(config.batch_size, config.seed, which=share))
        self.trainer = Trainer(config, model, device, experiment.data.augment)
        self._batch = self.trainer.prepare(*images)

    def __call__(self) -> None:
        """Take the step, and wait for the device. Phases that are rare run every time."""
        self.trainer.state.step = self.trainer.state.images = 0
        self.trainer.step(self._batch)
        self.trainer.means.means()  # waits for the device

    def gradients(self) -> list[Tensor]:
        """The gradients that the last step left in this process."""
        found = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        return [g.to_local() if hasattr(g, "to_local") else g for g in found]


@torch.no_grad()
def wake_zeros(model: nn.Module) -> None:
    """Replace matrices of weights that are all zero by random ones."""
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            drawn = torch.randn(parameter.shape, generator=draw)
            parameter.copy_(drawn / parameter[0].numel() ** 0.5)


def _check_given(plan: Plan, device: torch.device) -> None:
    if plan.compile and not can_compile(device):
        raise SfumatoError(
            "training.compile is true, but there is no C++ compiler, which torch.compile needs for "
            "a CPU; install one or set training.compile=false"
        )
    if plan.compile and (trouble := compiling_fails(device)):
        raise SfumatoError(
            f"training.compile is true, but torch.compile fails here ({trouble}); repair the "
            "compiler it uses (the environment's CXX, if that is set) or set training.compile=false"
        )
    if plan.kernels and not available(plan).kernels:
        raise SfumatoError(
            "training.kernels is true, but the kernels cannot be built: "
            f"{find_compiler() or 'there is no C++ compiler'}; install one or set "
            "training.kernels=false"
        )


def _place(experiment: Experiment, dataset: Dataset, device: torch.device) -> Path:
    """The file that remembers the choice.

    Named by what the speed depends on: machine, network, batch, and what is left to choose.
    """
    config = to_mapping(experiment)
    machine = environment(torch.get_num_threads(), gpu_name())
    facts = {
        "machine": {k: v for k, v in machine.items() if k not in ("commit", "sfumato")},
        "device": str(device),
        "processes": distributed.world_size(),
        "kernel": hashlib.sha256(SOURCE.read_bytes()).hexdigest() if find_compiler() else None,
        "model": {
            key: value
            for key, value in config["model"].items()
            if not changeable(Experiment, f"model.{key}", "after_training")
        },
        "images": [list(dataset.image_shape), dataset.num_classes, experiment.conditional],
        "training": {
            key: value
            for key, value in config["training"].items()
            if is_decisive(Experiment, f"training.{key}", "speed")
        },
    }
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder() / "plans" / f"{name}.json"
