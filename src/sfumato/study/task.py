"""One arm with one seed: trains, scores and measures it. Finished steps are not repeated."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sfumato.core.config import parse
from sfumato.core.console import say
from sfumato.core.errors import SfumatoError, TrainingDiverged
from sfumato.core.files import write_json
from sfumato.data.catalogue import load
from sfumato.experiment.load import check_same_experiment
from sfumato.experiment.score_run import score_run
from sfumato.experiment.training_run import train, with_decay_fixed
from sfumato.runs.directory import read_json
from sfumato.study.evaluators import Evaluators
from sfumato.study.measure import MEASURED, measure_run
from sfumato.study.study import Study

FAILED = "failed.json"
"""In a run directory: training diverged for good. This is a finding, no reason to stop."""
WORKING = "working"
"""Folder of the study with a file for each run in progress."""


def run_dir_of(directory: Path, arm: str, seed: int) -> Path:
    """The directory of a run."""
    return directory / "runs" / arm / f"seed-{seed}"


def title(arm: str, seed: int) -> str:
    """A name for a run, fit for a file."""
    return f"{arm} seed-{seed}"


def read_study(directory: Path) -> Study:
    """The study that a directory holds.

    Raises:
        RunError: it holds none.
    """
    return parse(Study, read_json(directory, "study.json"), str(directory / "study.json"))


def is_done(directory: Path, study: Study, arm: str, seed: int) -> bool:
    """Whether the run is trained, scored and measured, or has diverged for good.

    Raises:
        RunError: it was finished with another config.
    """
    run_dir = run_dir_of(directory, arm, seed)
    failed = (run_dir / FAILED).exists()
    if not failed and not (run_dir / "summary.json").exists():
        return False
    check_same_experiment(run_dir, with_decay_fixed(study.experiment(arm, seed)), force=False)
    return failed or ((run_dir / "evaluation.json").exists() and (run_dir / MEASURED).exists())


@dataclass(frozen=True)
class Work:
    """What the runs of a study have in common.

    Args:
        study: arms, budget, seeds.
        directory: of the study.
        evaluators: the references of the arms.
        log: gets messages for the user.
    """

    study: Study
    directory: Path
    evaluators: Evaluators
    log: Callable[[str], None]

    @classmethod
    def at(cls, directory: Path, log: Callable[[str], None]) -> "Work":
        """The study that a directory holds.

        Raises:
            RunError: it holds none.
        """
        study = read_study(directory)
        return cls(study, directory, Evaluators(study), log)


def run_task(work: Work, arm: str, seed: int) -> None:
    """Do what is left of one run; an interrupted run continues from its checkpoint.

    Raises:
        Interrupted: stopped; the same call continues.
        RunError: the run directory holds something else.
    """
    study, evaluators = work.study, work.evaluators
    run_dir = run_dir_of(work.directory, arm, seed)
    experiment = replace(study.experiment(arm, seed), evaluation=evaluators.protocol(arm))
    with _announced(work.directory, arm, seed):
        if not (run_dir / "summary.json").exists():
            try:
                train(experiment, run_dir, resume=run_dir.exists(), log=work.log)
            except TrainingDiverged as error:
                write_json(run_dir / FAILED, {"reason": str(error)})
                return
        evaluator = evaluators.of(arm)
        if not (run_dir / "evaluation.json").exists():
            score_run(run_dir, evaluator)
        if not (run_dir / MEASURED).exists():
            measure_run(run_dir, study, arm, evaluator, load(experiment.data))


@contextmanager
def _announced(directory: Path, arm: str, seed: int) -> Iterator[None]:
    """Write down in the study's directory which process works on the run."""
    folder = directory / WORKING
    folder.mkdir(exist_ok=True)
    path = folder / f"{title(arm, seed)}.json"
    who = {"arm": arm, "seed": seed, "pid": os.getpid(), "host": platform.node()}
    write_json(path, who | {"since": time.time()})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """`python -m sfumato.study.task DIRECTORY ARM SEED`: one run in its own process.

    Messages go to standard error. An error of the input is the last line of the output, as JSON.
    """
    directory, arm, seed = Path(arguments[0]), arguments[1], int(arguments[2])
    try:
        run_task(Work.at(directory, say), arm, seed)
    except SfumatoError as error:
        print(json.dumps({"kind": type(error).__name__, "message": str(error)}))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
