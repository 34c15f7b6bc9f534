"""The scores that a study compares: overall, class by class, bits per dimension."""

from collections.abc import Mapping
from pathlib import Path

from sfumato.evaluation.reference import HeldOut
from sfumato.experiment.score_run import StoredScores, load_scores
from sfumato.explore.nll import held_out_bits
from sfumato.metrics.estimate import Estimate
from sfumato.runs.result_files import read_record
from sfumato.runs.results import Measurements, MetricColumn
from sfumato.study.evaluators import Evaluators
from sfumato.study.measure import MEASURED
from sfumato.study.study import Study
from sfumato.study.task import run_dir_of

Classes = Mapping[str, Mapping[str, Estimate]]
"""Scores of each class."""
BITS = MetricColumn(key="bits_per_dim", label="Held-out bits per dimension", better="lower")


def arm_scores(
    study: Study, directory: Path, arm: str, evaluators: Evaluators
) -> dict[int, StoredScores]:
    """The scores of the finished runs of an arm, by training seed."""
    run_dirs = {seed: run_dir_of(directory, arm, seed) for seed in study.seeds}
    return {
        seed: _run_scores(study, run_dir, arm, evaluators)
        for seed, run_dir in run_dirs.items()
        if (run_dir / MEASURED).exists()
    }


def _run_scores(study: Study, run_dir: Path, arm: str, evaluators: Evaluators) -> StoredScores:
    """The scores of a run, with their jackknife terms if they were kept.

    An arm with another reference than the first arm has scores of classes only. If the study
    compares by class, every class is a score beside the overall ones.
    """
    scores, classes = load_scores(run_dir)
    if not evaluators.shares_reference(arm):
        names = evaluators.splits(arm).train.class_names
        if len(names) == 1:
            classes = {names[0]: _as_class(evaluators.of(arm), names[0], scores)}
        scores = {}
    elif read_record(Measurements, run_dir / MEASURED).likelihood is not None:
        scores = {**scores, BITS.key: held_out_bits(run_dir)}
    if study.measure.by_class:
        scores = scores | {
            class_key(name): found["frechet_distance"]
            for name, found in classes.items()
            if "frechet_distance" in found and not _differs(name, found, evaluators)
        }
    return StoredScores(scores, classes)


def left_out_classes(study: Study, classes: Classes, evaluators: Evaluators) -> list[str]:
    """A note for each class of a run that is missing from the column of the class."""
    if not study.measure.by_class:
        return []
    floors = evaluators.main.class_floors
    return [
        f"{name} has no value in its column: it was scored with another N, reference or network "
        "than the floor of the class, or by an older version; remove evaluation.json of the run to "
        "score it again"
        for name, found in classes.items()
        if found.keys() & floors.get(name, {}).keys() & {"frechet_distance"}
        and _differs(name, found, evaluators)
    ]


def _differs(name: str, found: Mapping[str, Estimate], evaluators: Evaluators) -> bool:
    """Whether a class has no floor, or a score by another protocol than its floor."""
    floor = evaluators.main.class_floors.get(name, {}).get("frechet_distance")
    return floor is None or found["frechet_distance"].protocol != floor.protocol


def _as_class(evaluator: HeldOut, name: str, scores: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The scores of a run of one class as scores of that class, where the protocol is the same."""
    floors = evaluator.floors
    own = {k: s for k, s in scores.items() if k in floors and s.protocol == floors[k].protocol}
    return {**scores, **evaluator.of_class(name, own)}


def class_key(name: str) -> str:
    """The key of the column of a class."""
    return f"frechet_distance.{name}"
