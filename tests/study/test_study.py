"""Studies: what they refuse, and one from end to end in seconds."""

import json
import re
from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.core.errors import ConfigError, RunError
from sfumato.study.launch import run_study
from sfumato.study.read import load_study, study_names

TINY = """
factors = ["model"]
budget = {{ images = 64 }}
seeds = {seeds}

[common]
data = {{ limit = 400 }}
training = {{ batch_size = 16, log_images = 32, sample_images = 32 }}
evaluation = {{ num_images = 60 }}

[arms.ddpm]
recipe = "digits-ddpm"
model.network = {{ channels = 8, blocks = 1, attention = [] }}
model.sampler = {{ kind = "ddim", steps = 2 }}

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
    from sfumato.run.experiment import load_experiment

    return load_experiment("digits-ddpm", []).training.learning_rate


def test_arms_that_differ_outside_the_factors_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", rate=0.5)
    expected = rf"arms 'ddpm' and 'dcgan' differ in training.learning_rate \({load_rate()}, 0.5\)"
    with pytest.raises(ConfigError, match=expected) as caught:
        load_study(path, [])
    assert "not in factors; make them equal or add it to factors" in str(caught.value)


def test_another_n_is_refused_however_it_comes_about(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", extra="evaluation = { num_images = 61 }\n")
    with pytest.raises(ConfigError, match=r"evaluation.num_images \(60, 61\)"):
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


@pytest.mark.parametrize("name", study_names())
def test_the_studies_of_the_package_are_fair(name: str) -> None:
    assert len(load_study(name, []).arms) > 1


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
            assert score["n"] == 60
    floor = results["metrics"][0]["floor"]
    assert (
        0 <= floor["value"] < results["arms"][0]["runs"][0]["scores"]["frechet_distance"]["value"]
    )
    assert {(v["a"], v["b"]) for v in results["verdicts"]} == {("ddpm", "dcgan")}
    assert results["protocol"]["num_images"] == 60

    page = (output / "report.html").read_text()
    assert not re.search(r'(src|href)="https?:', page)
    assert page.count("data:image/") >= 4

    before = {p: p.stat().st_mtime_ns for p in (output / "runs").rglob("*") if p.is_file()}
    run_study(load_study(path, []), output, tell=lambda message: None)
    after = {p: p.stat().st_mtime_ns for p in (output / "runs").rglob("*") if p.is_file()}
    assert before == after

    with pytest.raises(RunError, match=r"a study that differs in .*budget_images \(64, now 96\)"):
        run_study(load_study(path, ["budget.images=96"]), output, tell=lambda message: None)
