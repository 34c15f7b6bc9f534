"""The verbs on a real run of a second: files written, help, interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import VERBS, build_parser, main
from sfumato.networks.unet import UNetConfig

RECIPE = str(Path(__file__).parent / "tiny.toml")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained by the command line."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", RECIPE, "-o", str(path)]) == 0
    return path


def test_a_run_directory_is_the_record(run_dir: Path) -> None:
    names = {p.name for p in run_dir.iterdir()}
    assert names >= {
        "config.json",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "samples",
        "training.webp",
        "checkpoints",
        "final.safetensors",
        "summary.json",
    }
    with Image.open(run_dir / "training.webp") as animation:
        assert animation.n_frames == len(list((run_dir / "samples").iterdir())) == 3
    assert [json.loads(line)["images"] for line in (run_dir / "metrics.jsonl").open()] == [
        32,
        64,
        96,
        128,
    ]


def test_sample_writes_png_files_by_class(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "png"
    assert main(["sample", str(run_dir), "-n", "6", "--classes", "3", "7", "-o", str(output)]) == 0
    found = {str(p.relative_to(output)) for p in output.rglob("*.png")}
    assert found == {f"3/00000{i}.png" for i in range(3)} | {f"7/00000{i}.png" for i in range(3, 6)}
    with Image.open(output / "3" / "000000.png") as image:
        assert (image.size, image.mode) == ((8, 8), "L")


def test_sample_writes_npz_grid_and_animation(run_dir: Path, tmp_path: Path) -> None:
    npz, grid, film = tmp_path / "x.npz", tmp_path / "grid.png", tmp_path / "film.gif"
    arguments = ["-n", "16", "-o", str(npz), "--grid", str(grid), "--animation", str(film)]
    assert main(["sample", str(run_dir), *arguments]) == 0
    with np.load(npz, allow_pickle=False) as arrays:
        assert arrays["x"].shape == (16, 8, 8, 1)
        assert arrays["x"].dtype == np.uint8
        assert arrays["seeds"].tolist() == list(range(16))
        assert len(arrays["y"]) == 16
    with Image.open(grid) as picture:
        assert picture.width > picture.height
    with Image.open(film) as animation:
        assert animation.n_frames == 3  # one a sampling step


def test_the_same_seed_is_the_same_image(run_dir: Path, tmp_path: Path) -> None:
    for name, arguments in [("a", ["-n", "4"]), ("b", ["-n", "2", "--seed", "2"])]:
        more = ["--classes", "5", "-o", str(tmp_path / f"{name}.npz")]
        assert main(["sample", str(run_dir), *arguments, *more]) == 0
    a, b = (np.load(tmp_path / f"{name}.npz")["x"].astype(int) for name in "ab")
    assert np.abs(a[2:] - b).max() <= 1  # rounding of float32


def test_a_dry_run_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", RECIPE, "--dry-run", "training.learning_rate=3e-4"]) == 0
    printed = capsys.readouterr().out
    assert "training.learning_rate=0.0003" in printed
    assert "for 8 steps of 16 images" in printed
    assert "parameters  " in printed
    assert list(tmp_path.iterdir()) == []


def test_info_counts_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", RECIPE, "--json", "--depth", "1"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    total = next(row for row in rows if row["module"] == "(total)")
    assert total["parameters"] == sum(r["parameters"] for r in rows if r is not total) > 0


def test_info_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", RECIPE]) == 0
    printed = capsys.readouterr().out
    assert "    stem" in printed
    assert "FLOP per image" in printed
    assert "for a batch of 16:\n" in printed


def test_info_needs_no_images_of_a_known_set_and_keeps_numbers_whole(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFAR-10 would be a download; the terminal is narrow."""
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    changes = ["model.network.channels=32", "conditional=false"]
    assert main(["info", "cifar10-ddpm", *changes]) == 0
    printed = capsys.readouterr().out
    network = UNetConfig(channels=32, downsampling_pad="end").build((3, 32, 32), 0)
    assert f"{sum(p.numel() for p in network.parameters()):,}" in printed
    assert "…" not in printed.split("(total)")[0].split("dtype")[1]
    assert not list(tmp_path.rglob("*.gz"))


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__.split(".")[-1])
def test_every_verb_has_help_with_an_example(
    verb: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    name = verb.__name__.split(".")[-1]  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"  sfumato {name}" in printed.split("examples:")[1]


def test_help_does_not_import_torch() -> None:
    code = "import sys, sfumato.cli as c; c.build_parser(); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_reader_that_leaves_is_no_error() -> None:
    """As in `sfumato info --json | head -1`."""
    command = [sys.executable, "-m", "sfumato", "info", "digits-ddpm", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_interruption_saves_and_says_how_to_resume(tmp_path: Path) -> None:
    """A real process, a real SIGINT; what it then saved continues to the end."""
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "sfumato", "train", RECIPE, "-o", str(run_dir)]
    command += ["training.budget_images=100000000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not list((run_dir / "checkpoints").glob("*.json")):
        assert time.monotonic() < deadline, "no checkpoint appeared"
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"everything is saved in {run_dir}" in errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    saved = max(int(p.stem) for p in (run_dir / "checkpoints").glob("*.json"))
    budget = saved + 32
    more = ["-o", str(run_dir), "--resume", f"training.budget_images={budget}"]
    assert main(["train", RECIPE, *more]) == 0
    assert json.loads((run_dir / "summary.json").read_text())["images_seen"] == budget


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["sample", "RUN", "--num-images", "5"], "num_images", 5),
        (["sample", "RUN", "--number", "5"], "num_images", 5),
        (["edit", "strip", "RUN", "-n", "5"], "num_images", 5),
        (["edit", "truncation", "RUN", "--psi", "0,0.5"], "psi", [0.0, 0.5]),
        (["edit", "truncation", "RUN", "--shares", "0,0.5"], "psi", [0.0, 0.5]),
        (["edit", "interpolate", "RUN", "--num-walks", "5"], "num_walks", 5),
        (["plot", "forward", "RUN", "--num-images", "5"], "num_images", 5),
    ],
)
def test_options_have_the_names_of_the_field(
    arguments: list[str], name: str, value: object
) -> None:
    assert getattr(build_parser().parse_args(arguments), name) == value
