"""A search for good values by Optuna, whose trials are arms of the study."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato.core.config import parse, to_mapping
from sfumato.core.errors import ConfigError
from sfumato.core.files import write_json
from sfumato.experiment.experiment import Experiment
from sfumato.metrics import METRICS
from sfumato.runs.directory import read_json
from sfumato.study.study import Study
from sfumato.study.sweep import OptunaSearch, Range, Value, changed, point_name

TRIALS = "trials.json"


class Search:
    """Proposes the arms of a study one round after another, from the scores of those before.

    trials.json in the study's directory has every trial's values, so that a search goes on where
    it was stopped.

    Args:
        study: its arms are what is searched from.
        config: the search.
    Raises:
        ConfigError: Optuna is not installed, or an unknown metric.
    """

    def __init__(self, study: Study, config: OptunaSearch) -> None:
        better = {metric.key: metric.better for metric in METRICS}
        if config.metric not in better:
            raise ConfigError(
                f"search.metric is {config.metric!r}; it should be one of {', '.join(better)}"
            )
        self._study = study
        self._config = config
        self._minimize = better[config.metric] == "lower"
        self._optuna = _optuna()

    def trials_in(self, directory: Path) -> dict[str, Any]:
        """The trials so far, by the name of the arm they made: {"arm", "values"}."""
        if not (directory / TRIALS).exists():
            return {}
        return read_json(directory, TRIALS)

    def propose(self, directory: Path, results: Mapping[str, Any], at_once: int) -> bool:
        """Add the trials of the next round to trials.json; False when the search is over.

        Args:
            directory: of the study.
            results: as in results.json, with all trials so far; {} before the first round.
            at_once: trials proposed together for an arm, since they run at the same time.
        """
        trials = self.trials_in(directory)
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
                point = {key: _tidy(value) for key, value in asked.params.items()}
                name = f"{point_name(arm, point)}"
                if name not in trials:
                    trials[name] = {"arm": arm, "values": point}
        if len(trials) == before:
            return False
        write_json(directory / TRIALS, trials)
        return True

    def grown(self, directory: Path) -> Study:
        """The study with its trials as arms; the study itself before there are any."""
        trials = self.trials_in(directory)
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
        """A trial that was run; one without a score (it diverged) counts as failed."""
        states = self._optuna.trial.TrialState
        state = states.FAIL if score is None else states.COMPLETE
        return self._optuna.trial.create_trial(
            params=values, distributions=self._space(), value=score, state=state
        )


def _scores(results: Mapping[str, Any], metric: str) -> dict[str, float]:
    """The mean score over the training seeds of every arm that finished them all."""
    found = {}
    for arm in results.get("arms", []):
        values = [run["scores"][metric]["value"] for run in arm["runs"] if metric in run["scores"]]
        if values and len(values) == len(arm["runs"]):
            found[arm["name"]] = sum(values) / len(values)
    return found


def _tidy(value: Any) -> Any:
    """Four digits are enough, and the report stays readable."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


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
