"""Where runs happen, and that a study survives what happens to them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sfumato.cli import main
from sfumato.core.errors import RunError
from sfumato.study import task
from sfumato.study.launch import run_study, with_common_plan
from sfumato.study.launchers import Processes, share_of_machine
from sfumato.study.read import load_study
from study.studies import TINY, write

SEARCH = """
[sweep]
kind = "optuna"
trials = 3
[sweep.ranges]
"training.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
"""


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFUMATO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def say_nothing(message: str) -> None:
    pass


def results_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "results.json").read_text())
    return found


def test_a_search_proposes_arms_goes_on_where_it_was_stopped_and_ends(tmp_path: Path) -> None:
    one = TINY[: TINY.index("[arms.dcgan]")].replace("seeds = [0, 1]", "seeds = [0]")
    path, output = write(tmp_path, SEARCH, one), tmp_path / "study"
    run_study(load_study(path, ["sweep.trials=2"]), output, say_nothing)
    early = json.loads((output / "trials.json").read_text())
    assert len(early) == 2
    results = run_study(load_study(path, []), output, say_nothing)
    trials = json.loads((output / "trials.json").read_text())
    assert list(trials)[:2] == list(early)
    assert [arm.name for arm in results.arms] == list(trials)
    rates = [trial["values"]["training.learning_rate"] for trial in trials.values()]
    assert len(set(rates)) == 3
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    for arm in results.arms:
        assert arm.runs[0].images_seen == 64


def test_a_run_that_diverges_is_a_finding_and_stops_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, text=TINY.replace("seeds = [0, 1]", "seeds = [0]"))
    study = load_study(path, ["arms.ddpm.training.learning_rate=1e12", "budget.images=160"])
    results = run_study(study, tmp_path / "study", say_nothing)
    (failure,) = results.diverged
    assert failure.arm == "ddpm"
    assert "learning rate" in failure.reason
    assert [arm.name for arm in results.arms] == ["dcgan"]
    assert results.waiting == 0


def test_seeds_may_be_added_and_nothing_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = write(tmp_path), tmp_path / "study"
    run_study(load_study(path, ["seeds=[0]"]), output, say_nothing)
    done: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "sfumato.study.launchers.run_task",
        lambda work, arm, seed: (done.append((arm, seed)), task.run_task(work, arm, seed)),
    )
    results = run_study(load_study(path, []), output, say_nothing)
    assert done == [("ddpm", 1), ("dcgan", 1)]
    assert [[run.seed for run in arm.runs] for arm in results.arms] == [[0, 1], [0, 1]]


def test_every_process_gets_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    shares = [share_of_machine(place, 3) for place in range(3)]
    assert [share["OMP_NUM_THREADS"] for share in shares] == ["2", "2", "2"]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["4", "7", "4"]


def test_several_processes_and_a_reported_failure(tmp_path: Path) -> None:
    """One arm succeeds in its process; the run directory of the other holds something else."""
    path, output = write(tmp_path), tmp_path / "study"
    strange = output / "runs" / "dcgan" / "seed-0"
    study = with_common_plan(load_study(path, ["seeds=[0]"]), output, say_nothing)
    (output / "runs").mkdir(parents=True)
    task_file = output / "study.json"
    from sfumato.core.config import to_mapping

    task_file.write_text(json.dumps(to_mapping(study)))
    strange.mkdir(parents=True)
    (strange / "precious.txt").write_text("mine")
    with pytest.raises(RunError, match=r"arm 'dcgan', seed 0: .*is not a run directory"):
        run_study(study, output, say_nothing, Processes(2))
    (strange / "precious.txt").unlink()
    results = run_study(study, output, say_nothing, Processes(2))
    assert [arm.name for arm in results.arms] == ["ddpm", "dcgan"]
    assert "denoiser" not in results_of(output)


@pytest.mark.slow
def test_processes_are_stopped_and_go_on(tmp_path: Path) -> None:
    """SIGTERM to the command: the runs save, the command ends with 130, the same goes on."""
    path, output = write(tmp_path), tmp_path / "study"
    command = [sys.executable, "-m", "sfumato", "study", path, "-o", str(output), "--jobs", "2"]
    command += ["budget.images=12800", "seeds=[0]", "common.training.checkpoint_images=640"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(checkpoints(output)) == 2, process.poll)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "To go on, repeat the command" in said
    reached = [int(p.stem) for p in checkpoints(output)]
    assert 0 < min(reached) <= max(reached) < 12_800
    went_on = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=900)
    assert went_on.returncode == 0, went_on.stderr
    for arm in results_of(output)["arms"]:
        assert arm["runs"][0]["images_seen"] == 12_800
        rows = (output / arm["runs"][0]["directory"] / "metrics.jsonl").read_text().splitlines()
        images = [json.loads(row)["images"] for row in rows]
        assert images == sorted(set(images))


@pytest.mark.slow
def test_a_ray_worker_is_killed_mid_arm_and_the_study_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes of a core each; the worker process of one arm is killed while it trains."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # or a busy machine never comes to it
    path, output = write(tmp_path), tmp_path / "study"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    command = [
        sys.executable, "-m", "sfumato", "study", path, "-o", str(output), "--launcher", "ray",
        "budget.images=6400", "seeds=[0]", "common.training.checkpoint_images=640",
    ]  # fmt: skip
    try:
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: bool(checkpoints(output, "ddpm")), process.poll)
        (folder,) = (output / "working").glob("ddpm*")
        victim = json.loads(folder.read_text())["pid"]
        name = Path(f"/proc/{victim}/cmdline").read_bytes()
        assert b"ray::" in name, name
        os.kill(victim, signal.SIGKILL)
        _, said = process.communicate(timeout=500)
        assert process.returncode == 0, said
    finally:
        process.kill()
        ray.shutdown()
        cluster.shutdown()
    results = results_of(output)
    assert {arm["name"] for arm in results["arms"]} == {"ddpm", "dcgan"}
    for arm in results["arms"]:
        assert arm["runs"][0]["images_seen"] == 6400
    rows = (output / "runs/ddpm/seed-0/metrics.jsonl").read_text().splitlines()
    images = [json.loads(row)["images"] for row in rows]
    assert images == sorted(set(images))  # no step is logged twice: it went on from a checkpoint
    assert not list((output / "working").iterdir())


def checkpoints(output: Path, arm: str = "*") -> list[Path]:
    """The newest checkpoint of every run that has one beyond its start."""
    newest = []
    for folder in output.glob(f"runs/{arm}/seed-*/checkpoints"):
        found = [path for path in folder.glob("*.safetensors") if int(path.stem) > 0]
        newest += sorted(found)[-1:]
    return newest


def wait_for(condition: Any, ended: Any, seconds: float = 300) -> None:
    began = time.monotonic()
    while not condition():
        assert ended() is None, "the process ended before"
        assert time.monotonic() - began < seconds, "waited too long"
        time.sleep(0.1)


def test_the_command_tells_what_it_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "demo", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "ddpm-cosine" in said
    assert "3 arms x 1 training seeds" in said


def test_jobs_must_be_positive(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["study", "demo", "--jobs", "0", "-o", str(tmp_path / "x")]) == 2
    assert "--jobs should be at least 1, got 0" in capsys.readouterr().err
