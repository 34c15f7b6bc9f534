"""Choosing the performance plan: by timing the candidates on the real network and batch.

Each candidate is checked first: the gradient of a whole training step must agree with that of the
reference plan. What was found is remembered for this machine, network and batch.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core import distributed
from sfumato.core.config import changeable, component, is_decisive, parse, to_mapping
from sfumato.core.device import default_device, is_busy
from sfumato.core.errors import SfumatoError
from sfumato.core.files import write_json
from sfumato.core.images import Batch
from sfumato.data.cache import cache_folder
from sfumato.data.dataset import Dataset
from sfumato.experiment.build import build_model
from sfumato.experiment.experiment import Experiment
from sfumato.runs.directory import environment
from sfumato.speed.kernels.fused_layers import has_kernels
from sfumato.speed.kernels.norm import SOURCE, find_compiler
from sfumato.speed.plan import (
    KEYS,
    REFERENCE,
    Plan,
    available,
    can_compile,
    compiling_fails,
    fixed_plan,
    plan_of,
    with_plan,
)
from sfumato.training.trainer import Trainer

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
"""Largest error of the gradient of a step, relative to its norm, by precision."""
FEWEST_STEPS = 100
"""A shorter run takes the reference plan: choosing would cost more than it gains."""
TIMED = 2
"""Steps that are timed at least, after one to warm up; the quickest counts."""
TIMED_SECONDS = 1.5
"""Quick steps are timed for so long: a machine has moments at which it is slow."""
HOPELESS = 2.5
"""A candidate whose first two steps take so many times the best so far is not timed further."""
WORTHWHILE = 0.97
"""A candidate must take less than this share of the time of the best before it."""
LONG_RUN = 1800.0
"""Seconds from which compiling networks is considered: it costs one or two minutes."""


_while_busy: dict[Path, "Choice"] = {}
"""Choices of this process that are not remembered beyond it."""


@component
class Candidate:
    """A plan that was tried.

    Args:
        plan: which.
        seconds: of a training step; None: not timed.
        error: of the gradient of a step, relative to its norm.
        note: why it is out, if it is.
    """

    plan: Plan
    seconds: float | None = None
    error: float | None = None
    note: str = ""


@component
class Choice:
    """A plan and where it comes from: performance.json of a run directory."""

    plan: Plan
    source: str
    candidates: tuple[Candidate, ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """As plain values, with what else is needed to judge it."""
        return {**to_mapping(self), "tolerance": TOLERANCE}

    def __str__(self) -> str:
        own, reference = self.seconds(self.plan), self.seconds(REFERENCE)
        gain = f", {reference / own:.2f} x the reference" if own and reference else ""
        return f"{self.plan} ({self.source}{gain})"

    def seconds(self, plan: Plan) -> float | None:
        """The time of a step under a plan, if it was timed, which only a sound one is.

        Where a network has no use for kernels, a plan with them takes the time of one without.
        """
        plan = self.as_tried(plan)
        return next((c.seconds for c in self.candidates if c.plan == plan), None)

    def as_tried(self, plan: Plan) -> Plan:
        """The plan, without kernels where the network has no use for them."""
        if any(c.plan.kernels for c in self.candidates):
            return plan
        return replace(plan, kernels=False)

    def is_long(self, experiment: Experiment) -> bool:
        """Whether a run under this plan takes so long that compiling it may pay."""
        step, reference = self.seconds(self.plan), self.seconds(REFERENCE)
        steps = number_of_steps(experiment)
        if experiment.training.budget_seconds is not None:
            return experiment.training.budget_seconds >= LONG_RUN
        return (steps or 0) * (step or reference or 0.0) >= LONG_RUN


def choose_plan(experiment: Experiment, dataset: Dataset, device: torch.device) -> Choice:
    """The plan of a run: as the config says, remembered, or timed now.

    In a process group all processes must call this; they time in step and agree.
    Raises:
        SfumatoError: what the config asks for cannot be had here.
    """
    config = experiment.training
    _check_given(plan_of(config), device)
    given = fixed_plan(config)
    if given is not None:
        return Choice(plan=given, source="given")
    steps = number_of_steps(experiment)
    if steps is not None and steps < FEWEST_STEPS:
        return Choice(plan=plan_of(config), source=f"only {steps} steps")
    path = _place(experiment, dataset, device)
    remembered = distributed.on_main(lambda: _recall(path) or _while_busy.get(path))
    if remembered is not None and _is_enough(remembered, experiment):
        return remembered
    choice = Search(experiment, dataset, device).run()
    if distributed.on_main(is_busy):
        # For the other arms of a study in this process, and no longer.
        _while_busy[path] = replace(choice, source="timed on a busy machine")
        return _while_busy[path]
    if distributed.is_main():
        _remember(path, choice)
    return choice


def with_plans_tried(
    choice: Choice, plans: Iterable[Plan], experiment: Experiment, dataset: Dataset
) -> Choice:
    """The choice with the times of these plans, too; what is not known is timed now.

    A search leaves out what cannot win for its own network; for the arms of a study together it
    may. A run too short to choose stays so.
    """
    wanted = {choice.as_tried(plan) for plan in plans}
    missing = wanted - {candidate.plan for candidate in choice.candidates}
    if not choice.candidates or not missing:
        return choice
    device = default_device()
    search = Search(experiment, dataset, device)
    search.try_plan(REFERENCE)  # its gradient is what the others are checked against
    found = tuple(search.try_plan(plan) for plan in sorted(missing, key=str))
    choice = replace(choice, candidates=(*choice.candidates, *found))
    if not is_busy():
        _remember(_place(experiment, dataset, device), choice)
    return choice


def number_of_steps(experiment: Experiment) -> int | None:
    """The length of a run in steps; None for a budget in seconds."""
    config = experiment.training
    if config.budget_steps is not None:
        return config.budget_steps
    if config.budget_images is not None:
        return -(-config.budget_images // config.batch_size)
    return None


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


class Search:
    """Times plans for one experiment."""

    def __init__(self, experiment: Experiment, dataset: Dataset, device: torch.device) -> None:
        self.experiment, self.dataset, self.device = experiment, dataset, device
        self.tried: dict[Plan, Candidate] = {}
        self._gradients: list[Tensor] = []
        config = experiment.training
        share = distributed.local_slice(config.batch_size)
        self._raw = next(dataset.batches(config.batch_size, config.seed, which=share))

    def run(self) -> Choice:
        """Precision first, then layout and kernels, then compilation, keeping the best of each."""
        best = self._start()
        steps = number_of_steps(self.experiment)
        budget = self.experiment.training.budget_seconds
        first = self.tried[REFERENCE].seconds or 0.0
        seconds = budget if budget is not None else (steps or 0) * first
        if seconds < FEWEST_STEPS * first:
            return Choice(plan=plan_of(self.experiment.training), source="too short a run")
        for stage in (self._precisions, self._layouts, self._compiled):
            so_far = Choice(plan=best, source="timed", candidates=tuple(self.tried.values()))
            if stage == self._compiled and not so_far.is_long(self.experiment):
                continue
            for plan in stage(best):
                if self._is_allowed(plan) and self._beats(plan, best):
                    best = plan
        return Choice(plan=best, source="timed", candidates=tuple(self.tried.values()))

    def try_plan(self, plan: Plan) -> Candidate:
        """Check and time a plan, once."""
        if plan not in self.tried:
            self.tried[plan] = self._measure(plan)
        return self.tried[plan]

    def _start(self) -> Plan:
        """The reference, and what the config allows that is closest to it."""
        self.try_plan(REFERENCE)
        allowed = plan_of(self.experiment.training)
        self.try_plan(allowed)
        return allowed

    def _is_allowed(self, plan: Plan) -> bool:
        config = self.experiment.training
        return all(getattr(config, key) in ("auto", getattr(plan, key)) for key in KEYS)

    def _precisions(self, best: Plan) -> Iterator[Plan]:
        low = replace(best, precision="bfloat16")
        if self.device.type == "cuda" and not torch.cuda.is_bf16_supported():
            if self.experiment.training.shard:
                return
            low = replace(best, precision="float16")
        yield low

    def _layouts(self, best: Plan) -> Iterator[Plan]:
        is_last = best.layout == "channels_last"
        other = replace(best, layout="contiguous" if is_last else "channels_last")
        if self._with_kernels():
            yield replace(best, kernels=True)
            yield replace(other, kernels=True)
        else:
            yield other

    def _compiled(self, best: Plan) -> Iterator[Plan]:
        if can_compile(self.device):
            # A compiler makes a normalization of its own: what suits the kernels says nothing.
            yield replace(best, layout="contiguous", kernels=False, compile=True)
            yield replace(best, layout="channels_last", kernels=False, compile=True)

    def _with_kernels(self) -> bool:
        model = build_model(self.experiment, self.dataset)
        wanted = self.device.type == "cpu" and has_kernels(model)
        return wanted and available(Plan(kernels=True)).kernels

    def _beats(self, plan: Plan, best: Plan) -> bool:
        candidate, rival = self.try_plan(plan), self.tried[best]
        if candidate.seconds is None or candidate.note:
            return False
        return rival.seconds is None or candidate.seconds < WORTHWHILE * rival.seconds

    def _measure(self, plan: Plan) -> Candidate:
        try:
            return self._measured(plan)
        except (RuntimeError, SfumatoError) as trouble:
            # torch.compile cannot do every network; memory may be short.
            if plan == REFERENCE:
                raise
            reason = str(trouble).strip().split("\n")[0]
            return Candidate(plan=plan, note=f"failed: {reason[:200]}")

    def _measured(self, plan: Plan) -> Candidate:
        trainer = self._trainer(plan)
        batch = trainer.prepare(*self._raw)
        seconds = self._timed_step(trainer, batch)
        known = [c.seconds for c in self.tried.values() if c.seconds is not None]
        limit = HOPELESS * min(known) if known and not plan.compile else math.inf
        if seconds > limit:  # the first step also asks for memory, and the machine may be busy
            seconds = self._timed_step(trainer, batch)
        error = self._error(trainer.model)
        if not error <= TOLERANCE[plan.precision]:  # also when it is not a number
            return Candidate(plan=plan, error=error, note="error above the tolerance")
        if seconds > limit:
            return Candidate(plan=plan, seconds=seconds, error=error, note="slow at first")
        times: list[float] = []
        while len(times) < TIMED or sum(times) < TIMED_SECONDS:
            times.append(self._timed_step(trainer, batch))
        return Candidate(plan=plan, seconds=min(times), error=error)

    def _trainer(self, plan: Plan) -> Trainer:
        """A trainer that never moves its weights: the rate is next to nothing."""
        experiment = with_plan(self.experiment, plan)
        config = replace(experiment.training, performance="auto", learning_rate=1e-30)
        model = build_model(experiment, self.dataset)
        wake_zeros(model)
        for module in model.modules():
            if isinstance(module, nn.Dropout):  # its masks depend on the memory layout
                module.p = 0.0
        return Trainer(config, model, self.device, experiment.data.augment)

    def _timed_step(self, trainer: Trainer, batch: Batch) -> float:
        began = time.perf_counter()
        trainer.position.step = trainer.position.images = 0  # rare phases run in every step
        trainer.step(batch)
        trainer.means.means()  # waits for the device
        (seconds,) = distributed.largest(time.perf_counter() - began)
        return seconds

    def _error(self, model: nn.Module) -> float:
        """Of the gradient left by the last step; the reference's, which comes first, is kept."""
        found = [p.grad for p in model.parameters() if p.grad is not None]
        local = [g.to_local() if hasattr(g, "to_local") else g for g in found]
        if not self._gradients:
            self._gradients = [g.detach().clone() for g in local]
        pairs = list(zip(local, self._gradients, strict=True))
        off = sum((a.double() - b.double()).square().sum().item() for a, b in pairs)
        size = sum(b.double().square().sum().item() for _, b in pairs)
        (error,) = distributed.largest((off / max(size, 1e-300)) ** 0.5)
        return error


@torch.no_grad()
def wake_zeros(model: nn.Module) -> None:
    """Give weights that start as zero a value, so that all of the network shows in a gradient."""
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            drawn = torch.randn(parameter.shape, generator=draw)
            parameter.copy_(drawn / parameter[0].numel() ** 0.5)


def _place(experiment: Experiment, dataset: Dataset, device: torch.device) -> Path:
    """Where the choice is remembered."""
    return cache_folder() / "plans" / f"{_key(experiment, dataset, device)}.json"


def _key(experiment: Experiment, dataset: Dataset, device: torch.device) -> str:
    """What the speed depends on: the machine, the network, the batch, and what may be chosen."""
    config = to_mapping(experiment)
    facts = {
        "machine": {k: v for k, v in environment().items() if k not in ("commit", "sfumato")},
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
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _recall(path: Path) -> Choice | None:
    """What was chosen before, if that file is sound."""
    try:
        saved = json.loads(path.read_text())
        chosen = {key: saved[key] for key in ("plan", "candidates")}
        choice = parse(Choice, chosen | {"source": "remembered"}, str(path))
    except (OSError, ValueError, KeyError, SfumatoError):
        return None
    return choice if available(choice.plan) == choice.plan else None


def _is_enough(choice: Choice, experiment: Experiment) -> bool:
    """Whether compilation was tried, or the run is too short for it."""
    tried = [c for c in choice.candidates if c.plan.compile]
    return bool(tried) or not choice.is_long(experiment)


def _remember(path: Path, choice: Choice) -> None:
    with suppress(OSError):  # without a cache the next run times again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, choice.to_mapping())
