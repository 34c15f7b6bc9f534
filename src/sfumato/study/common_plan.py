"""One performance plan for all arms of a study, so that they differ in their factors alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sfumato.core.distributed import default_device
from sfumato.data.catalogue import load
from sfumato.experiment.experiment import Experiment
from sfumato.experiment.plan_choice import choose_plan, with_plans_tried
from sfumato.speed.plan import REFERENCE, Plan
from sfumato.speed.plan_search import Choice
from sfumato.study.study import Study
from sfumato.study.task import read_study
from sfumato.training.training_config import PLAN_KEYS, fixed_plan, plan_of


def with_common_plan(study: Study, directory: Path, tell: Callable[[str], None]) -> Study:
    """The study with the plan of every arm fixed: what the arms leave open is the same for all.

    A study that has been run before keeps its plan.
    """
    undecided = [name for name, arm in study.arms.items() if fixed_plan(arm.training) is None]
    if not undecided:
        return study
    plan = _recorded(directory, undecided)
    if plan is None:
        plan = common_plan(_choices(study, undecided))
        if plan != REFERENCE:
            tell(f"performance of all arms: {plan}")
    arms = study.arms | {name: _settled(study.arms[name], plan) for name in undecided}
    return replace(study, arms=arms)


def common_plan(choices: Sequence[Choice]) -> Plan:
    """The plan that is quickest on the whole among those that every arm has tried and found sound.

    Quickest is the smallest product of the times. The reference if an arm is too short to choose.
    """

    def cost(plan: Plan) -> float:
        times = [choice.seconds(plan) for choice in choices]
        return sum(math.inf if time is None else math.log(time) for time in times)

    if not all(choice.candidates for choice in choices):
        return REFERENCE
    plans = [candidate.plan for choice in choices for candidate in choice.candidates]
    return min([REFERENCE, *plans], key=cost)


def _choices(study: Study, arms: Sequence[str]) -> list[Choice]:
    """What each arm chose; all have tried what any of them would take."""
    runs = [study.experiment(arm, study.seeds[0]) for arm in arms]
    sets = [load(run.data).train for run in runs]
    choices = [choose_plan(r, s, default_device()) for r, s in zip(runs, sets, strict=True)]
    best = {choice.plan for choice in choices}
    return [
        with_plans_tried(choice, best, run, images)
        for choice, run, images in zip(choices, runs, sets, strict=True)
    ]


def _recorded(directory: Path, undecided: Sequence[str]) -> Plan | None:
    if not (directory / "study.json").exists():
        return None
    arms = read_study(directory).arms
    known = [arms[name] for name in undecided if name in arms] or list(arms.values())
    return plan_of(known[0].training)


def _settled(experiment: Experiment, plan: Plan) -> Experiment:
    """The experiment with what it leaves open as in `plan`."""
    training = experiment.training
    given = {key: getattr(plan, key) for key in PLAN_KEYS if getattr(training, key) == "auto"}
    return replace(experiment, training=replace(training, **given))
