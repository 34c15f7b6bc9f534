"""`sfumato edit` and likelihoods on a real run of a second: files, numbers, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import main

RECIPE = str(Path(__file__).parent / "tiny.toml")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tiny"
    schedule = ["model.schedule.kind=linear_beta", "model.schedule.num_steps=50"]
    changes = ["training.sample_images=0", *schedule]
    assert main(["train", RECIPE, "-o", str(path), *changes]) == 0
    return path


def run_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    printed: dict[str, object] = json.loads(capsys.readouterr().out)
    return printed


@pytest.mark.parametrize(
    ("verb", "arguments", "key", "count"),
    [
        ("reconstruct", ["-n", "2", "--steps", "5"], "rms_error", 2),
        ("inpaint", ["--images", "0,3,4", "--steps", "3"], "rms_change_of_found_pixels", 2),
        ("img2img", ["-n", "2", "--start", "0.4,0.9", "--as-class", "3"], "rms_change", 2),
        ("strip", ["-n", "2", "--times", "1,0.5,0", "--classes", "3"], "times", 3),
        ("noise", ["-n", "1", "--times", "0.1,0.5,1"], "predicted_std_after_training", 3),
    ],
)
def test_a_picture_and_its_numbers(
    run_dir: Path,
    verb: str,
    arguments: list[str],
    key: str,
    count: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = run_json(["edit", verb, str(run_dir), *arguments], capsys)
    assert facts["picture"] == str(run_dir / "edits" / f"{verb}.png")
    with Image.open(run_dir / "edits" / f"{verb}.png") as picture:
        assert picture.width > 100
    values = facts[key]
    assert isinstance(values, list)
    assert len(values) == count
    if verb == "inpaint":
        assert facts["largest_change_of_kept_pixels"] == 0


def test_interpolation_writes_an_animation_there_and_back(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, frames = tmp_path / "walk.png", tmp_path / "frames"
    arguments = ["edit", "interpolate", str(run_dir), "--points", "5", "-n", "2", "-o", str(path)]
    facts = run_json([*arguments, "--frames", str(frames)], capsys)
    with Image.open(str(facts["animation"])) as film:
        assert film.n_frames == 8
    assert path.exists()
    found = sorted(frames.rglob("*.png"))
    assert [str(p.relative_to(frames)) for p in found] == [
        f"{walk:02d}/{point:03d}.png" for walk in range(2) for point in range(5)
    ]
    with Image.open(found[0]) as start, Image.open(found[4]) as end, Image.open(found[1]) as near:
        first, last, second = (np.asarray(p).astype(float) for p in (start, end, near))
    assert first.shape == (8, 8)
    assert 0 < np.abs(first - second).mean() < np.abs(first - last).mean()


def test_a_grid_between_four_noises(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grid.png"
    arguments = ["edit", "interpolate", str(run_dir), "--points", "3", "--corners"]
    run_json([*arguments, "-o", str(path)], capsys)
    with Image.open(path) as picture:
        assert 0.6 < picture.height / picture.width < 1.1


def test_likelihoods_are_printed_and_kept(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--metrics", "nll", "--nll-images", "2", "--nll-tolerance", "0.1"]
    printed = run_json(["evaluate", str(run_dir), *options], capsys)
    assert printed == {"nll": json.loads((run_dir / "nll.json").read_text())}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inpaint", "--box", "6,6,4,4"], "does not lie within an image of 8 x 8"),
        (["img2img", "--start", "2"], "start 2.0 is not in (0, 1]"),
        (["reconstruct", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["strip", "-n", "0"], "--num-images must be at least 1, got 0"),
        (["interpolate", "--points", "1"], "at least 2 points, got 1"),
        (["interpolate", "--space", "w"], "w is StyleGAN2's"),
        (["truncation"], "w is StyleGAN2's"),
        (["interpolate", "--corners", "--between", "images"], "need noises"),
        (["noise", "model.label_dropout=0.5"], "it was settled when"),
    ],
)
def test_nonsense_is_refused(
    run_dir: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edit", arguments[0], str(run_dir), *arguments[1:]]) == 2
    assert message in capsys.readouterr().err
