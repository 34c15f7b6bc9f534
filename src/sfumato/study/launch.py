"""Runs a study: trains, scores and measures its runs, then compares; or searches by Optuna."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato.core.config import changeable, differences, parse, to_mapping
from sfumato.core.distributed import default_device
from sfumato.core.errors import ConfigError, RunError
from sfumato.core.files import write_json
from sfumato.data.catalogue import load
from sfumato.experiment.experiment import Experiment
from sfumato.experiment.plan_choice import choose_plan, with_plans_tried
from sfumato.metrics import METRICS
from sfumato.runs.directory import locked, read_json
from sfumato.runs.result_files import read_record, write_record
from sfumato.runs.results import Results
from sfumato.speed.plan import REFERENCE, Plan
from sfumato.speed.plan_search import Choice
from sfumato.study.evaluators import Evaluators
from sfumato.study.launchers import InProcess, Launcher
from sfumato.study.study import Study
from sfumato.study.study_results import study_results
from sfumato.study.sweep import OptunaSearch, Range, Value, changed, four_digits, point_name
from sfumato.study.task import Work, is_done, read_study
from sfumato.training.training_config import PLAN_KEYS, fixed_plan, plan_of

TRIALS = "trials.json"


def run_study(
    study: Study,
    directory: Path,
    log: Callable[[str], None] = print,
    launcher: Launcher = InProcess(),
) -> Results:
    """Train, score and measure the unfinished runs; write the results after each.

    Args:
        study: what to compare. A finished study may get further seeds and arms.
        directory: of the study; made if it does not exist.
        log: gets messages for the user.
        launcher: runs the tasks.
    Returns:
        The content of results.json.
    Raises:
        RunError: the directory holds another study.
        Interrupted: stopped; the same command continues.
    """
    with locked(directory):
        study = with_common_plan(study, directory, log)
        recorder = _Recorder(directory, log)
        _open(study, directory)
        if study.search is None:
            return recorder.run(study, launcher)
        search = TrialSearch(study, study.search, directory)
        if not search.trials():
            search.propose(None, launcher.at_once)
        while True:
            grown = search.grown()
            _open(grown, directory)
            results = recorder.run(grown, launcher)
            if not search.propose(results, launcher.at_once):
                return results


def with_common_plan(study: Study, directory: Path, log: Callable[[str], None]) -> Study:
    """The study with a fixed performance plan: one value for all arms that leave a key open.

    A study that ran before keeps its plan.
    """
    undecided = [name for name, arm in study.arms.items() if fixed_plan(arm.training) is None]
    if not undecided:
        return study
    plan = _recorded(directory, undecided)
    if plan is None:
        plan = common_plan(_choices(study, undecided))
        if plan != REFERENCE:
            log(f"performance of all arms: {plan}")
    arms = study.arms | {name: _settled(study.arms[name], plan) for name in undecided}
    return replace(study, arms=arms)


def common_plan(choices: Sequence[Choice]) -> Plan:
    """The fastest plan among those that every arm has tried and found sound.

    Fastest means the smallest product of the times over arms. Returns the reference plan if an
    arm is too short to choose.
    """

    def cost(plan: Plan) -> float:
        times = [choice.seconds(plan) for choice in choices]
        return sum(math.inf if time is None else math.log(time) for time in times)

    if not all(choice.candidates for choice in choices):
        return REFERENCE
    plans = [candidate.plan for choice in choices for candidate in choice.candidates]
    return min([REFERENCE, *plans], key=cost)


def _choices(study: Study, arms: Sequence[str]) -> list[Choice]:
    """The choice of each arm; every arm has tried the best plan of every other."""
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
    """The experiment with its open keys set as in `plan`."""
    training = experiment.training
    given = {key: getattr(plan, key) for key in PLAN_KEYS if getattr(training, key) == "auto"}
    return replace(experiment, training=replace(training, **given))


class _Recorder:
    """Runs the tasks of a study and writes results.json after each."""

    def __init__(self, directory: Path, log: Callable[[str], None]) -> None:
        self._directory = directory
        self._log = log
        self._began = time.monotonic()
        path = directory / "results.json"
        self._before = (read_record(Results, path).seconds or 0.0) if path.exists() else 0.0
        self._evaluators: tuple[Study, Evaluators] | None = None

    def run(self, study: Study, launcher: Launcher) -> Results:
        directory = self._directory
        waiting = [task for task in study.tasks if not is_done(directory, study, *task)]
        done = len(study.tasks) - len(waiting)
        if done:
            self._log(f"{done} of {len(study.tasks)} runs are done already")
        work = Work(study, directory, self._prepared(study), self._log)
        results: Results | None = None
        for arm, seed in launcher.run(work, waiting):
            results = self.record(study)
            done += 1
            self._log(f"{done} of {len(study.tasks)} runs: {arm}, seed {seed}")
        return self.record(study) if results is None else results

    def record(self, study: Study) -> Results:
        """Write results.json from the finished runs."""
        seconds = self._before + time.monotonic() - self._began
        results = study_results(study, self._directory, self._prepared(study), seconds)
        write_record(self._directory / "results.json", results)
        return results

    def _prepared(self, study: Study) -> Evaluators:
        """The evaluators, prepared before any run: a mistake in the protocol shows at once."""
        if self._evaluators is None or self._evaluators[0] is not study:
            evaluators = Evaluators(study, self._log)
            for arm in study.arms:
                evaluators.of(arm)
            self._evaluators = (study, evaluators)
        return self._evaluators[1]


def _open(study: Study, directory: Path) -> None:
    """Write study.json, or check that the directory holds this study."""
    path = directory / "study.json"
    mapping = to_mapping(study)
    if path.exists():
        for key, (old, new) in _changed(read_json(directory, "study.json"), mapping).items():
            raise RunError(
                f"{directory} holds a study that differs in {key} ({old!r}, now {new!r}); "
                "choose another directory with --output"
            )
    elif any(path.name != "lock" for path in directory.iterdir()):
        raise RunError(
            f"{directory} already exists and holds no study; choose another with --output"
        )
    write_json(path, mapping)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys whose difference makes the runs of two studies different.

    A new study may add arms. The trials of a search are arms too; they come from trials.json.
    """
    ours, theirs = (study.pop("arms") for study in (dict(old), dict(new)))
    found = {
        key: values
        for key, values in differences(old | {"arms": None}, new | {"arms": None}).items()
        if not changeable(Study, key, "study")
    }
    for name in sorted(ours):
        if name in theirs:
            found |= differences(ours[name], theirs[name], f"arms.{name}.")
        elif new["search"] is None:
            found[f"arms.{name}"] = ("there", "gone")
    return found


class TrialSearch:
    """Proposes the arms of a study in rounds, each from the scores of the earlier ones.

    trials.json in the study's directory has the values of every trial, so that an interrupted
    search continues.

    Args:
        study: its arms are the starting points of the search.
        config: the search.
        directory: of the study.
    Raises:
        ConfigError: Optuna is not installed, or an unknown metric.
    """

    def __init__(self, study: Study, config: OptunaSearch, directory: Path) -> None:
        better = {metric.key: metric.better for metric in METRICS}
        if config.metric not in better:
            raise ConfigError(
                f"search.metric is {config.metric!r}; it should be one of {', '.join(better)}"
            )
        self._study = study
        self._config = config
        self._directory = directory
        self._minimize = better[config.metric] == "lower"
        self._optuna = _optuna()

    def trials(self) -> dict[str, Any]:
        """The trials so far by the name of their arm, each {"arm", "values"}."""
        exist = (self._directory / TRIALS).exists()
        return read_json(self._directory, TRIALS) if exist else {}

    def propose(self, results: Results | None, at_once: int) -> bool:
        """Add the trials of the next round to trials.json; False when the search is over.

        Args:
            results: of all trials so far; None before the first round.
            at_once: number of trials to propose together for an arm; they run at the same time.
        """
        trials = self.trials()
        scores = _scores(results, self._config.metric)
        before = len(trials)
        for number, arm in enumerate(self._study.arms):
            own = {name: trial for name, trial in trials.items() if trial["arm"] == arm}
            sampler = self._optuna.samplers.TPESampler(
                seed=self._config.seed + 1000 * number + len(own), constant_liar=at_once > 1
            )
            direction = "minimize" if self._minimize else "maximize"
            search = self._optuna.create_study(direction=direction, sampler=sampler)
            for name, trial in own.items():
                search.add_trial(self._past(trial["values"], scores.get(name)))
            for _ in range(min(at_once, self._config.trials - len(own))):
                asked = search.ask(self._space())
                point = {
                    key: four_digits(value) if isinstance(value, float) else value
                    for key, value in asked.params.items()
                }
                name = point_name(arm, point)
                if name not in trials:
                    trials[name] = {"arm": arm, "values": point}
        if len(trials) == before:
            return False
        write_json(self._directory / TRIALS, trials)
        return True

    def grown(self) -> Study:
        """The study with its trials as arms; the study itself before the first trial."""
        trials = self.trials()
        arms = {name: to_mapping(arm) for name, arm in self._study.arms.items()}
        made = {
            name: parse(
                Experiment,
                changed(arms[trial["arm"]], trial["values"]) | {"name": name},
                f"trial {name}",
            )
            for name, trial in trials.items()
        }
        return replace(self._study, arms=made, compare=()) if made else self._study

    def _space(self) -> dict[str, Any]:
        return {key: self._distribution(found) for key, found in self._config.ranges.items()}

    def _distribution(self, found: Range) -> Any:
        kinds = self._optuna.distributions
        if found.choices:
            return kinds.CategoricalDistribution(found.choices)
        kind = kinds.IntDistribution if found.whole else kinds.FloatDistribution
        return kind(found.low, found.high, log=found.log)

    def _past(self, values: dict[str, Value], score: float | None) -> Any:
        """A finished trial; without a score (it diverged) it counts as failed."""
        states = self._optuna.trial.TrialState
        state = states.FAIL if score is None else states.COMPLETE
        return self._optuna.trial.create_trial(
            params=values, distributions=self._space(), value=score, state=state
        )


def _scores(results: Results | None, metric: str) -> dict[str, float]:
    """The mean score over training seeds, for every arm that finished all of them."""
    found = {}
    for arm in results.arms if results else []:
        scores = [score.value for run in arm.runs if (score := run.scores.get(metric))]
        if scores and len(scores) == len(arm.runs):
            found[arm.name] = sum(scores) / len(scores)
    return found


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "a study with [sweep] kind = 'optuna' needs the package optuna, which is not "
            "installed; pip install 'sfumato[optuna]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
