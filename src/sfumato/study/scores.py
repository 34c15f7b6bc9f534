"""The scores of a study's run that are compared: overall, class by class, bits per dimension."""

from dataclasses import replace
from pathlib import Path

from sfumato.run.directory import read_json
from sfumato.run.draws import Scores, load_scores
from sfumato.run.nll import held_out_bits
from sfumato.run.protocol import Metric
from sfumato.study.evaluators import Evaluators
from sfumato.study.measure import MEASURED
from sfumato.study.study import Study
from sfumato.study.task import run_dir_of

BITS = Metric("bits_per_dim", "Held-out bits per dimension", "lower")


def arm_scores(
    study: Study, directory: Path, arm: str, evaluators: Evaluators
) -> dict[int, Scores]:
    """What the finished runs of an arm reached, by training seed."""
    run_dirs = {seed: run_dir_of(directory, arm, seed) for seed in study.seeds}
    return {
        seed: _run_scores(study, run_dir, arm, evaluators)
        for seed, run_dir in run_dirs.items()
        if (run_dir / MEASURED).exists()
    }


def _run_scores(study: Study, run_dir: Path, arm: str, evaluators: Evaluators) -> Scores:
    """The scores of a run, with what each image does to them where that was kept.

    Those of an arm that is held against other images than the first arm are scores of classes
    alone. Where the study compares by class, every class is a score beside the overall ones.
    """
    scores, classes = load_scores(run_dir)
    if not evaluators.shares_reference(arm):
        names = evaluators.splits(arm).train.class_names
        classes = {names[0]: scores} if len(names) == 1 else classes
        scores = {}
    elif "likelihood" in read_json(run_dir, MEASURED):
        scores = {**scores, BITS.key: held_out_bits(run_dir)}
    if study.measure.by_class:
        scores = scores | {
            # A class is held against the same images whatever else its arm was trained on.
            class_key(name): replace(found["frechet_distance"], protocol=None)
            for name, found in classes.items()
            if "frechet_distance" in found
        }
    return Scores(scores, classes)


def class_key(name: str) -> str:
    """The key of the column of a class."""
    return f"frechet_distance.{name}"
