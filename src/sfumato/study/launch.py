"""Running a study: train, score and measure what is not done, then compare."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sfumato.core.config import changeable, differences, to_mapping
from sfumato.core.errors import RunError
from sfumato.core.files import write_json
from sfumato.runs.directory import locked, read_json
from sfumato.runs.result_files import read_record, write_record
from sfumato.runs.results import Results
from sfumato.study.common_plan import with_common_plan
from sfumato.study.evaluators import Evaluators
from sfumato.study.launchers import InProcess, Launcher
from sfumato.study.optuna_search import Search
from sfumato.study.study import Study
from sfumato.study.study_results import study_results
from sfumato.study.task import is_done


def run_study(
    study: Study,
    directory: Path,
    tell: Callable[[str], None] = print,
    launcher: Launcher = InProcess(),
) -> Results:
    """Train, score and measure what is not done yet; the results are written after each run.

    Args:
        study: what to compare. Seeds and arms may be added to a study that has been run.
        directory: of the study; made if it does not exist.
        tell: hears messages for the user.
        launcher: where the runs happen.
    Returns:
        What results.json holds.
    Raises:
        RunError: the directory holds another study.
        Interrupted: stopped; the same command goes on.
    """
    with locked(directory):
        study = with_common_plan(study, directory, tell)
        recorder = _Recorder(directory, tell)
        _open(study, directory)
        if study.search is None:
            return recorder.run(study, launcher)
        search = Search(study, study.search)
        if not search.trials_in(directory):
            search.propose(directory, None, launcher.at_once)
        while True:
            grown = search.grown(directory)
            _open(grown, directory)
            results = recorder.run(grown, launcher)
            if not search.propose(directory, results, launcher.at_once):
                return results


class _Recorder:
    """Runs the tasks of a study and writes results.json after each."""

    def __init__(self, directory: Path, tell: Callable[[str], None]) -> None:
        self._directory = directory
        self._tell = tell
        self._began = time.monotonic()
        self._before = _recorded_seconds(directory)
        self._evaluators: tuple[Study, Evaluators] | None = None

    def run(self, study: Study, launcher: Launcher) -> Results:
        directory = self._directory
        waiting = [task for task in study.tasks if not is_done(directory, study, *task)]
        done = len(study.tasks) - len(waiting)
        if done:
            self._tell(f"{done} of {len(study.tasks)} runs are done already")
        evaluators = self._prepared(study)
        results: Results | None = None
        for arm, seed in launcher.run(study, directory, waiting, evaluators, self._tell):
            results = self.record(study)
            done += 1
            self._tell(f"{done} of {len(study.tasks)} runs: {arm}, seed {seed}")
        return self.record(study) if results is None else results

    def record(self, study: Study) -> Results:
        """Write results.json from the runs that are finished."""
        seconds = self._before + time.monotonic() - self._began
        results = study_results(study, self._directory, self._prepared(study), seconds)
        write_record(self._directory / "results.json", results)
        return results

    def _prepared(self, study: Study) -> Evaluators:
        """The evaluators, prepared before any run: a mistake in the protocol shows at once."""
        if self._evaluators is None or self._evaluators[0] is not study:
            evaluators = Evaluators(study, self._tell)
            for arm in study.arms:
                evaluators.of(arm)
            self._evaluators = (study, evaluators)
        return self._evaluators[1]


def _open(study: Study, directory: Path) -> None:
    """Write the study down, or check that the directory holds it."""
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
    """The keys in which two studies differ so that the runs of one are not those of the other.

    Arms may be added; the trials of a search, which are arms too, come from trials.json.
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


def _recorded_seconds(directory: Path) -> float:
    path = directory / "results.json"
    return (read_record(Results, path).seconds or 0.0) if path.exists() else 0.0
