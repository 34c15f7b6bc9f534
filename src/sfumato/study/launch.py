"""Running a study: train and score every arm that is not done, then compare them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sfumato.core.config import differences, to_mapping
from sfumato.core.errors import RunError
from sfumato.core.files import write_json
from sfumato.data.catalogue import load
from sfumato.run.directory import check_same_experiment, locked, read_json
from sfumato.run.evaluate import Evaluator
from sfumato.run.experiment import Experiment
from sfumato.run.score import score_run
from sfumato.run.train import train, with_decay_fixed
from sfumato.study.results import study_results
from sfumato.study.study import Study


def run_study(study: Study, directory: Path, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Train and score what is not done yet; returns the results, which are written after each arm.

    Raises:
        RunError: the directory holds another study.
        Interrupted: stopped; the same command goes on.
    """
    began = time.monotonic()
    _open(study, directory)
    with locked(directory):
        before = _recorded_seconds(directory)
        first = next(iter(study.arms.values()))
        splits = load(first.data)
        tell("preparing the evaluation: classifiers and the floor")
        evaluator = Evaluator(splits, first.evaluation)
        results: dict[str, Any] = {}
        for seed in study.seeds:
            for arm in study.arms:
                run_dir = directory / "runs" / arm / f"seed-{seed}"
                experiment = study.experiment(arm, seed)
                if not (run_dir / "summary.json").exists():
                    train(experiment, run_dir, resume=run_dir.exists(), tell=tell)
                else:
                    _check_done(run_dir, experiment)
                if not (run_dir / "evaluation.json").exists():
                    score_run(run_dir, evaluator)
                seconds = before + time.monotonic() - began
                results = study_results(study, directory, evaluator, splits, seconds)
                write_json(directory / "results.json", results)
        return results


def _open(study: Study, directory: Path) -> None:
    """Create the study directory, or check that it holds this study."""
    path = directory / "study.json"
    mapping = to_mapping(study)
    if path.exists():
        changed = differences(read_json(directory, "study.json"), mapping)
        if changed:
            key, (old, new) = next(iter(changed.items()))
            raise RunError(
                f"{directory} holds a study that differs in {key} ({old!r}, now {new!r}); "
                "choose another directory with --output"
            )
        return
    if directory.exists() and any(directory.iterdir()):
        raise RunError(
            f"{directory} already exists and holds no study; choose another with --output"
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(path, mapping)


def _check_done(run_dir: Path, experiment: Experiment) -> None:

    check_same_experiment(run_dir, with_decay_fixed(experiment), force=False)


def _recorded_seconds(directory: Path) -> float:
    if not (directory / "results.json").exists():
        return 0.0
    return float(read_json(directory, "results.json")["seconds"])
