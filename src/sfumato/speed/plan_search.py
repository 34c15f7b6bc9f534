"""Choosing the performance plan: by timing the candidates on the real network and batch.

Each candidate is checked first: the gradient of a whole training step must agree with that of the
reference plan. The choice is remembered for this machine, network and batch.

Gain on a CPU: the chosen plans take training steps 1.8 to 2.9 times as fast as the reference. Which
plan is best depends on network and processor: docs/results/speed/train_step.md.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sfumato.core import distributed
from sfumato.core.config import component, parse, to_mapping
from sfumato.core.errors import SfumatoError
from sfumato.core.files import write_json
from sfumato.speed.plan import REFERENCE, Plan, available

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
"""Largest error of the gradient of a step, relative to its norm, by precision."""
FEWEST_STEPS = 100
"""A shorter run takes the reference plan: choosing would cost more than it gains."""
TIMED = 2
"""Smallest number of steps to time, after one to warm up; the fastest counts."""
TIMED_SECONDS = 1.5
"""Smallest total time of the timed steps: a machine is slow at moments."""
HOPELESS = 2.5
"""A candidate whose first two steps take this many times the best so far is not timed further."""
WORTHWHILE = 0.97
"""A candidate must take less than this share of the time of the best before it."""

_while_busy: dict[Path, "Choice"] = {}
"""Choices of this process that were timed on a busy machine, and are not stored."""


@runtime_checkable
class TimedStep(Protocol):
    """A whole training step under one plan, which can be repeated: it does not move the weights."""

    def __call__(self) -> None:
        """Take the step, and wait for the device."""
        ...

    def gradients(self) -> list[Tensor]:
        """The gradients that the last step left in this process."""
        ...


@dataclass(frozen=True)
class Workload:
    """What a plan is chosen for.

    Args:
        step_under: makes a training step under a plan.
        given: the parts of the plan that the user has fixed, by name.
        device: where the step runs.
        has_kernels: whether the network has layers with own kernels.
        allows_float16: where bfloat16 is unavailable.
        steps: length of the run; None: it has a budget in seconds.
        budget_seconds: length of the run; None: it has a budget in steps.
        place: the file that remembers the choice.
    """

    step_under: Callable[[Plan], TimedStep]
    given: Mapping[str, Any]
    device: torch.device
    has_kernels: Callable[[], bool]
    allows_float16: bool
    steps: int | None
    budget_seconds: float | None
    place: Path

    @property
    def start(self) -> Plan:
        """The plan closest to the reference that has the given parts."""
        return replace(REFERENCE, **self.given)

    def allows(self, plan: Plan) -> bool:
        """Whether a plan has the given parts."""
        return all(getattr(plan, key) == value for key, value in self.given.items())

    def seconds(self, step: float) -> float:
        """Length of the run, when a step takes this many seconds."""
        return (self.steps or 0) * step if self.budget_seconds is None else self.budget_seconds


@component
class Candidate:
    """A plan that was tried.

    Args:
        plan: which.
        seconds: of a training step; None: not timed.
        error: of the gradient of a step, relative to its norm.
        note: reason for rejection.
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
        """As plain values, with the tolerances that the candidates were judged by."""
        return {**to_mapping(self), "tolerance": TOLERANCE}

    def __str__(self) -> str:
        own, reference = self.seconds(self.plan), self.seconds(REFERENCE)
        gain = f", {reference / own:.2f} x the reference" if own and reference else ""
        return f"{self.plan} ({self.source}{gain})"

    def seconds(self, plan: Plan) -> float | None:
        """The time of a step under a plan; None if it was not timed.

        Where a network has no use for kernels, a plan with them takes the time of one without.
        """
        plan = self.as_tried(plan)
        return next((c.seconds for c in self.candidates if c.plan == plan), None)

    def as_tried(self, plan: Plan) -> Plan:
        """The plan, without kernels where the network has no use for them."""
        if any(c.plan.kernels for c in self.candidates):
            return plan
        return replace(plan, kernels=False)


def find_plan(work: Workload) -> Choice:
    """The fastest plan: remembered, or timed now.

    In a process group all processes must call this; they time in step and agree.
    """
    if work.steps is not None and work.steps < FEWEST_STEPS:
        return Choice(plan=work.start, source=f"only {work.steps} steps")
    remembered = distributed.on_main(lambda: _recall(work.place) or _while_busy.get(work.place))
    if remembered is not None:
        return remembered
    choice = PlanSearch(work).run()
    if distributed.on_main(is_busy):
        # For the other arms of a study in this process, and no longer.
        _while_busy[work.place] = replace(choice, source="timed on a busy machine")
        return _while_busy[work.place]
    if distributed.is_main():
        _remember(work.place, choice)
    return choice


def time_plans(choice: Choice, plans: Iterable[Plan], work: Workload) -> Choice:
    """The choice with the times of these plans as well. Times the plans not yet measured.

    A search leaves out what cannot win for its own network; for the arms of a study together it
    may. A run that is too short to choose stays as it is.
    """
    wanted = {choice.as_tried(plan) for plan in plans}
    missing = wanted - {candidate.plan for candidate in choice.candidates}
    if not choice.candidates or not missing:
        return choice
    search = PlanSearch(work)
    search.try_plan(REFERENCE)  # its gradient is what the others are checked against
    found = tuple(search.try_plan(plan) for plan in sorted(missing, key=str))
    choice = replace(choice, candidates=(*choice.candidates, *found))
    if not is_busy():
        _remember(work.place, choice)
    return choice


class PlanSearch:
    """Times plans for one workload."""

    def __init__(self, work: Workload) -> None:
        self.work = work
        self.tried: dict[Plan, Candidate] = {}
        self._gradients: list[Tensor] = []

    def run(self) -> Choice:
        """Precision first, then layout and kernels, keeping the best of each."""
        self.try_plan(REFERENCE)
        best = self.work.start
        self.try_plan(best)
        first = self.tried[REFERENCE].seconds or 0.0
        if self.work.seconds(first) < FEWEST_STEPS * first:
            return Choice(plan=best, source="too short a run")
        for stage in (self._precisions, self._layouts):
            for plan in stage(best):
                if self.work.allows(plan) and self._beats(plan, best):
                    best = plan
        return Choice(plan=best, source="timed", candidates=tuple(self.tried.values()))

    def try_plan(self, plan: Plan) -> Candidate:
        """Check and time a plan, once."""
        if plan not in self.tried:
            self.tried[plan] = self._measure(plan)
        return self.tried[plan]

    def _precisions(self, best: Plan) -> Iterator[Plan]:
        if self.work.device.type != "cuda" or torch.cuda.is_bf16_supported():
            yield replace(best, precision="bfloat16")
        elif self.work.allows_float16:
            yield replace(best, precision="float16")

    def _layouts(self, best: Plan) -> Iterator[Plan]:
        yield replace(best, layout="channels_last", kernels=best.kernels or self._with_kernels())

    def _with_kernels(self) -> bool:
        wanted = self.work.device.type == "cpu" and self.work.has_kernels()
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
            # Memory may be short, or torch.compile fails where the config asks for it.
            if plan == REFERENCE:
                raise
            reason = str(trouble).strip().split("\n")[0]
            return Candidate(plan=plan, note=f"failed: {reason[:200]}")

    def _measured(self, plan: Plan) -> Candidate:
        step = self.work.step_under(plan)
        seconds = _timed(step)
        known = [c.seconds for c in self.tried.values() if c.seconds is not None]
        hopeless = bool(known) and seconds > HOPELESS * min(known)
        if hopeless:  # the first step also asks for memory, and the machine may be busy
            seconds = _timed(step)
            hopeless = seconds > HOPELESS * min(known)
        error = self._error(step)
        if not error <= TOLERANCE[plan.precision]:  # also when it is not a number
            return Candidate(plan=plan, error=error, note="error above the tolerance")
        if hopeless:
            return Candidate(plan=plan, seconds=seconds, error=error, note="slow at first")
        times: list[float] = []
        while len(times) < TIMED or sum(times) < TIMED_SECONDS:
            times.append(_timed(step))
        return Candidate(plan=plan, seconds=min(times), error=error)

    def _error(self, step: TimedStep) -> float:
        """Of the gradient left by the last step; the reference's, which comes first, is kept."""
        found = step.gradients()
        if not self._gradients:
            self._gradients = [gradient.detach().clone() for gradient in found]
        pairs = list(zip(found, self._gradients, strict=True))
        off = sum((a.double() - b.double()).square().sum().item() for a, b in pairs)
        size = sum(b.double().square().sum().item() for _, b in pairs)
        (error,) = distributed.largest((off / max(size, 1e-300)) ** 0.5)
        return error


def _timed(step: TimedStep) -> float:
    """Seconds that a step takes; of the slowest process."""
    began = time.perf_counter()
    step()
    (seconds,) = distributed.largest(time.perf_counter() - began)
    return seconds


def _recall(path: Path) -> Choice | None:
    """What was chosen before; None if that file is missing, damaged, or unusable here."""
    try:
        saved = json.loads(path.read_text())
        chosen = {key: saved[key] for key in ("plan", "candidates")}
        choice = parse(Choice, chosen | {"source": "remembered"}, str(path))
    except (OSError, ValueError, KeyError, SfumatoError):
        return None
    return choice if available(choice.plan) == choice.plan else None


def _remember(path: Path, choice: Choice) -> None:
    with suppress(OSError):  # without a cache the next run times again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, choice.to_mapping())


BUSY = 1.25
"""Runnable processes per core, over the last minute, above which a machine is busy."""


def is_busy() -> bool:
    """Whether more processes want the cores of this machine than it has.

    Timings then say little about the machine.
    """
    if not hasattr(os, "getloadavg"):  # Windows
        return False
    return os.getloadavg()[0] > BUSY * (os.cpu_count() or 1)
