"""Mistakes at the command line: one message, exit status 2, no traceback, nothing lost."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.core import files
from sfumato.experiment.training_run import train
from support.experiments import DIFFUSION, experiment

TINY = ("training.budget_images=64", "training.sample_images=0", "model.sampler.steps=2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that change it work on a copy."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    train(experiment(DIFFUSION), run_dir, log=lambda message: None)
    return run_dir


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that is refused."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    message = printed.err.strip().splitlines()[-1]
    assert message.startswith("sfumato: ")
    assert "Traceback" not in printed.err
    return message


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "digits-dpm"], "there is no recipe 'digits-dpm'; did you mean 'digits-ddpm'?"),
        (["train", "no.toml"], "cannot read no.toml"),
        (
            ["train", "digits-ddpm", "training.learnin_rate=1"],
            "unknown key 'training.learnin_rate'; did you mean 'learning_rate'?",
        ),
        (
            ["train", "digits-ddpm", "training.batch_size=many"],
            "'training.batch_size' is 'many'; it should be a valid integer",
        ),
        (
            ["train", "digits-ddpm", "training.batch_size=0"],
            "batch_size' is 0; it should be at least 1",
        ),
        (["train", "digits-ddpm", "model.schedule.kind=cosin"], "did you mean 'cosine'?"),
        (["train", "digits-ddpm", "data.classes=[3,cat]"], "cat"),
        (["train", "digits-ddpm", "data.source=/no/such.npz"], "/no/such.npz"),
        (["train", "digits-ddpm", "model.network.multipliers=[1,1,1,1,1]"], "not divisible by"),
        (["sample", "nowhere"], "nowhere is not a run directory: it has no config.json"),
        (["evaluate", "nowhere"], "nowhere is no run directory; name what to compare it with"),
        (["report", "nowhere"], "nowhere"),
        (["study", "deemo"], "there is no study 'deemo'"),
        (["info", "deemo"], "there is no recipe 'deemo'"),
    ],
)
def test_a_mistake_in_the_arguments(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_data_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 but no more")
    message = refused(
        capsys, "train", "digits-ddpm", f"data.source={broken}", "-o", str(tmp_path / "run")
    )
    assert str(broken) in message
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_overwritten(
    capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    before = contents(finished)
    message = refused(capsys, "train", "digits-ddpm", "-o", str(finished))
    assert "already exists and is not empty; continue it with --resume" in message
    assert contents(finished) == before


def test_a_read_only_place(capsys: pytest.CaptureFixture[str]) -> None:
    """/proc refuses new directories even to root."""
    message = refused(capsys, "train", "digits-ddpm", *TINY, "-o", "/proc/run")
    assert "cannot write run directory /proc/run" in message
    assert "--output" in message


def test_a_full_disk(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of the first checkpoint fails; what was there stays."""
    real = os.fsync

    def full(descriptor: int) -> None:
        if "checkpoints" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "run"))
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    message = refused(capsys, "train", "digits-ddpm", *TINY, "-o", str(tmp_path / "run"))
    assert "No space left on device" in message
    assert "free some space" in message.lower()
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    monkeypatch.undo()
    assert main(["train", "digits-ddpm", *TINY, "-o", str(tmp_path / "run"), "--resume"]) == 0


def test_a_truncated_checkpoint_that_is_the_only_one(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    for path in (run_dir / "checkpoints").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    recipe = tmp_path / "recipe.toml"
    shutil.copy(Path(__file__).parent / "tiny.toml", recipe)
    message = refused(capsys, "train", str(recipe), "-o", str(run_dir), "--resume")
    assert "no usable checkpoint" in message
    assert "truncated or altered" in message


def test_weights_of_another_config(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path
) -> None:
    message = refused(capsys, "sample", str(finished), "model.network.channels=16")
    assert "of another configuration" in message
    assert not (finished / "generated").exists()


def test_truncated_final_weights(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    weights = run_dir / "final.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "is not a complete safetensors file" in refused(capsys, "sample", str(run_dir))


def test_a_class_that_does_not_exist(capsys: pytest.CaptureFixture[str], finished: Path) -> None:
    message = refused(capsys, "sample", str(finished), "--classes", "cat")
    assert "there is no class 'cat'; the classes are 0, 1, 2" in message


def test_an_evaluation_that_would_change_the_training(
    capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    message = refused(capsys, "evaluate", str(finished), "training.seed=3")
    assert "override of training.seed" in message


def test_samples_are_not_overwritten(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "x.npz"
    output.write_bytes(b"precious")
    message = refused(capsys, "sample", str(finished), "-o", str(output))
    assert "already exists" in message
    assert output.read_bytes() == b"precious"


def test_a_class_name_of_a_run_from_elsewhere_leads_out_of_no_folder(
    finished: Path, tmp_path: Path
) -> None:
    run_dir, output = tmp_path / "run", tmp_path / "a" / "b" / "images"
    shutil.copytree(finished, run_dir)
    data = json.loads((run_dir / "data.json").read_text())
    data["class_names"][:2] = ["../../evil", str(tmp_path / "evil")]
    (run_dir / "data.json").write_text(json.dumps(data))
    drawn = ["sample", str(run_dir), "-n", "10", "model.sampler.steps=2", "--output", str(output)]
    assert main(drawn) == 0
    assert len(list(output.glob("*/*.png"))) == 10
    assert not list(tmp_path.rglob("evil"))
