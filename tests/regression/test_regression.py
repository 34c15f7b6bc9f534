"""Results stay what they were: a run of version 0.1.0, its samples, and a record of everything.

`run-0.1.0` was trained by `diffusion.toml` with 8 channels on 8,000 images. `samples-0.1.0.npz`
holds 16 of its images for each sampler configuration of `record.py`, as version 0.1.0 drew them.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regression.record import (
    GUIDED,
    HERE,
    SAMPLERS,
    differences,
    machine,
    sampler_overrides,
    separated,
)
from sfumato.cli import main

COUNT = 16


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A copy of the run of version 0.1.0."""
    return Path(shutil.copytree(HERE / "run-0.1.0", tmp_path / "run"))


@pytest.mark.parametrize("name", [*SAMPLERS, *GUIDED])
def test_samples_of_a_run_of_0_1_0_are_the_same(name: str, run_dir: Path, tmp_path: Path) -> None:
    """To rounding: another processor may move a pixel to the next level, and few of them."""
    output = tmp_path / "samples.npz"
    arguments = ["-n", str(COUNT), "-o", str(output), *sampler_overrides(name)]
    assert main(["sample", str(run_dir), *arguments]) == 0
    with np.load(output) as found, np.load(HERE / "samples-0.1.0.npz") as expected:
        assert found["x"].shape == expected[name].shape
        distance = np.abs(found["x"].astype(int) - expected[name].astype(int))
    assert distance.max() <= 1
    assert (distance > 0).mean() < 0.02


def test_no_two_configurations_draw_the_same_samples() -> None:
    """Guards the test above: an override without effect would make two of them equal."""
    with np.load(HERE / "samples-0.1.0.npz") as expected:
        assert set(expected.files) == {*SAMPLERS, *GUIDED}
        assert len({expected[name].tobytes() for name in expected.files}) == len(expected.files)


def test_a_run_of_0_1_0_is_reported_with_its_scores(run_dir: Path) -> None:
    assert main(["report", str(run_dir)]) == 0
    page = (run_dir / "report.html").read_text()
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    assert f"{evaluation['scores']['frechet_distance']['value']:.3g}" in page
    assert f"{evaluation['scores']['label_accuracy']['value']:.3f}" in page


def test_a_difference_is_found_and_named() -> None:
    before = {"a/0": 1.0, "a/1": 2.0, "b": "x"}
    assert differences(before, before) == []
    assert differences(before, {"a/0": 1.0, "a/1": 2.0 + 1e-15, "c": "x"}) == [
        "a/1: 2.0 -> 2.000000000000001",
        "b: lost 'x'",
        "c: new 'x'",
    ]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this version computes."""
    output = tmp_path_factory.mktemp("record") / "after.json"
    subprocess.run([sys.executable, str(HERE / "record.py"), str(output)], check=True)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("model", ["diffusion", "gan"])
@pytest.mark.parametrize("part", ["final", "metrics", "pictures"])
def test_a_killed_run_resumes_to_the_same_result(
    record: dict[str, Any], model: str, part: str
) -> None:
    assert record[f"trainings/{model}-resumed"][part] is True


@pytest.mark.slow
def test_everything_is_bit_identical(record: dict[str, Any]) -> None:
    """Record again, with the reason, when results change on purpose."""
    before = json.loads((HERE / "before.json").read_text())
    if before["machine"] != machine():
        pytest.skip(f"recorded on another machine or with other libraries: {before['machine']}")
    assert differences(separated(before)[0], separated(record)[0]) == []
