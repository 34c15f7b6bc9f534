"""Studies: what they refuse, and one from end to end in seconds."""

import json
import re
from pathlib import Path

import pytest
import torch

from sfumato.cli import main
from sfumato.core.errors import ConfigError, RunError
from sfumato.core.images import Batch
from sfumato.core.noise import Noise, TrainingNoise, generator
from sfumato.data.dataset import Form
from sfumato.experiment.experiment import load_experiment
from sfumato.study.forecast import dry_run, form_of
from sfumato.study.launch import run_study
from sfumato.study.read import _read, load_study, study_names, study_path

TINY = """
factors = ["model"]
measure = {{ by_class = true, likelihood_images = 2, sampler_steps = [1, 2, 90], walks = 1 }}
compare = [["ddpm", "dcgan"]]
budget = {{ images = 64 }}
seeds = {seeds}

[common]
data = {{ limit = 400 }}
training = {{ batch_size = 16, log_images = 32, sample_images = 32 }}
evaluation = {{ num_images = 130 }}

[arms.ddpm]
recipe = "digits-ddpm"
model.network = {{ channels = 8, blocks = 1, attention = [] }}
model.sampler = {{ kind = "ddim", steps = 2 }}
model.schedule.num_steps = 50

[arms.dcgan]
recipe = "digits-dcgan"
model.network = {{ channels = 8 }}
training.learning_rate = {rate}
training.optimizer = {{ kind = "adam", betas = [0.9, 0.999] }}
training.warmup_images = 2000
training.clip_gradient = 1.0
"""


def write(path: Path, rate: float = 2e-3, seeds: str = "[0]", extra: str = "") -> str:
    ours = load_rate()
    text = TINY.format(rate=ours if rate == 2e-3 else rate, seeds=seeds)
    path.write_text(text + extra)
    return str(path)


def load_rate() -> float:
    """The learning rate of the other arm's recipe."""
    from sfumato.experiment.experiment import load_experiment

    return load_experiment("digits-ddpm", []).training.learning_rate


def test_arms_that_differ_outside_the_factors_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", rate=0.5)
    expected = rf"arms 'ddpm' and 'dcgan' differ in training.learning_rate \({load_rate()}, 0.5\)"
    with pytest.raises(ConfigError, match=expected) as caught:
        load_study(path, [])
    assert "not in factors; make them equal or add it to factors" in str(caught.value)


def test_another_n_is_refused_however_it_comes_about(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", extra="evaluation = { num_images = 131 }\n")
    with pytest.raises(ConfigError, match=r"evaluation.num_images \(130, 131\)"):
        load_study(path, [])


def test_the_budget_replaces_that_of_the_recipes(tmp_path: Path) -> None:
    study = load_study(write(tmp_path / "mine.toml"), ["budget.images=320"])
    for arm in study.arms:
        assert study.experiment(arm, 3).training.budget_images == 320
        assert study.experiment(arm, 3).training.seed == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("factors = []\n", "has no tables"),
        ("factors = []\nbudget={images=1}\n[arms.a]\nx = 1\n", "arm 'a' names no recipe"),
        ("factors = []\nbudget={}\n[arms.a]\nrecipe='digits-ddpm'\n", "exactly one budget"),
    ],
)
def test_a_study_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_study(str(path), [])


PRESETS = [(name, preset) for name in study_names() for preset in ("", "cpu")
           if not preset or "presets" in _read(study_path(name))]  # fmt: skip


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_the_studies_of_the_package(name: str, preset: str) -> None:
    """They are fair, every network can be built, and a preset says what it shrank."""
    study = load_study(name, [], preset)
    assert len(study.arms) > 1
    text = dry_run(study)
    assert "parameters unknown" not in text
    assert f"runs     {len(study.tasks)}" in text
    if preset:
        assert len(study.seeds) >= 2
        assert study.hours is not None
        assert f"at most {study.hours:g} hours" in text
        assert study.budget.images is not None
        assert any(line.startswith("budget: ") for line in study.shrunk)
        assert all(f"preset cpu: {line}" in text for line in study.shrunk)


def test_the_studies_of_the_field_are_there() -> None:
    fields = {
        "cats", "cats-frogs", "timesteps", "schedules", "schedules-mnist", "schedules-cars",
        "mnist-conditional", "cifar100", "bedrooms", "landscapes", "parameterizations",
    }  # fmt: skip
    assert fields <= set(study_names())
    for name in fields:
        assert "cpu" in _read(study_path(name))["presets"]
        assert load_study(name, []).published is not None


def test_a_study_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two arms, two seeds: trained, scored, compared, reported; then nothing is done twice."""
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    path, output = write(tmp_path / "mine.toml", seeds="[0, 1]"), tmp_path / "study"
    assert main(["study", path, "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert str(output / "report.html") in printed
    assert "ddpm" in printed

    results = json.loads((output / "results.json").read_text())
    assert [arm["name"] for arm in results["arms"]] == ["ddpm", "dcgan"]
    for arm in results["arms"]:
        assert [run["seed"] for run in arm["runs"]] == [0, 1]
        for run in arm["runs"]:
            assert run["images_seen"] == 64
            score = run["scores"]["frechet_distance"]
            assert score["low"] < score["value"] < score["high"]
            assert score["n"] == 130
            assert (
                run["grid_rows"] == results["data"]["grid_rows"] == results["data"]["class_names"]
            )
    floor = results["metrics"][0]["floor"]
    assert (
        0 <= floor["value"] < results["arms"][0]["runs"][0]["scores"]["frechet_distance"]["value"]
    )
    assert {(v["a"], v["b"]) for v in results["verdicts"]} == {("ddpm", "dcgan")}
    # Arms and seeds draw from the same noise, overall and in each class: all are pairs.
    assert all(verdict["paired"] for verdict in results["verdicts"])
    assert "frechet_distance.7" in {verdict["metric"] for verdict in results["verdicts"]}
    assert results["protocol"]["num_images"] == 130
    ddpm, dcgan = results["arms"]
    assert [point["nfe"] for point in ddpm["runs"][0]["sampler_curve"]] == [1, 2]
    assert any("90 sampling steps" in text for text in ddpm["runs"][0]["warnings"])
    assert not dcgan["runs"][0]["sampler_curve"]
    assert ddpm["runs"][0]["scores"]["bits_per_dim"]["n"] == 2
    assert "bits_per_dim" not in dcgan["runs"][0]["scores"]
    keys = {metric["key"] for metric in results["metrics"]}
    assert "bits_per_dim" in keys
    assert {(found["a"], found["b"], found["seed"]) for found in results["compared"]} == {
        ("ddpm", "dcgan", 0), ("ddpm", "dcgan", 1)
    }  # fmt: skip
    assert all(found["pixels"]["value"] > 0.5 for found in results["compared"])
    nfe = results["fronts"]["nfe"]
    assert {point["arm"] for point in nfe} == {"ddpm", "dcgan"}
    assert sum(point["cost"] == 2 for point in nfe) == 2  # as evaluated, and on the curve
    assert results["commands"][1] == f"sfumato study {path}"
    config = output / "runs/ddpm/seed-0/config.json"
    assert f"sfumato train {config.relative_to(output)}" in results["commands"][3]
    assert load_experiment(str(config), []).training.budget_images == 64

    page = (output / "report.html").read_text()
    assert not re.search(r'(src|href)="https?:', page)
    assert page.count("data:image/") >= 4

    before = {p: p.stat().st_mtime_ns for p in (output / "runs").rglob("*") if p.is_file()}
    run_study(load_study(path, []), output, log=lambda message: None)
    after = {p: p.stat().st_mtime_ns for p in (output / "runs").rglob("*") if p.is_file()}
    assert before == after

    with pytest.raises(RunError, match=r"a study that differs in budget\.images \(64, now 96\)"):
        run_study(load_study(path, ["budget.images=96"]), output, log=lambda message: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({name for name, preset in PRESETS if preset}))
def test_every_model_of_a_preset_takes_a_step_and_draws(name: str) -> None:
    """On noise of the shape of the data: every phase has a gradient, every sample is an image."""
    for arm, experiment in load_study(name, [], "cpu").arms.items():
        form = form_of(experiment.data) or Form((3, 16, 16), 0)
        shape, num_classes = form.image_shape, form.num_classes if experiment.conditional else 0
        model = experiment.model.build(shape, num_classes)
        images = torch.rand(8, *shape, generator=generator(0)) * 2 - 1
        batch = Batch(images, torch.arange(8) % num_classes if num_classes else None)
        for phase in model.phases():
            phase.loss(batch, TrainingNoise(0, phase.name, global_batch=8)).mean().backward()
            gradients = [p.grad for p in phase.module.parameters() if p.grad is not None]
            assert any(gradient.abs().sum() > 0 for gradient in gradients), (arm, phase.name)
        labels = torch.zeros(2, dtype=torch.int64) if num_classes else None
        samples = model.eval().sample(labels, Noise(range(2)))
        assert samples.shape == (2, *shape)
        assert samples.isfinite().all(), arm
