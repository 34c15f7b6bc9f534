"""Several processes give what one gives; one of them writes; all stop together."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from networks.tiny import TINY
from sfumato.core.config import merge, to_mapping
from sfumato.experiment.experiment import Experiment
from sfumato.experiment.training_run import train
from sfumato.runs.directory import read_metrics
from support.experiments import DIFFUSION, GAN, experiment
from support.processes import in_group, silent, train_and_stop_one, train_in

PLAIN = merge(DIFFUSION, {"model": {"network": {"dropout": 0.0}}})
"""Without dropout: its masks are drawn by each process for itself."""


def config(**training: Any) -> Experiment:
    """Log rows that are no checkpoints; plain SGD, which shows every difference of a gradient."""
    return experiment(PLAIN, log_images=48, optimizer={"kind": "sgd"}, **training)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("single") / "run"
    train(config(), run_dir, log=silent)
    return run_dir


def check_equal(found: Path, expected: Path) -> None:
    """The same weights, averages, optimizer state and curves, to rounding of float32."""
    for name in ("checkpoints/000000000128.safetensors", "final.safetensors"):
        a, b = load_file(found / name), load_file(expected / name)
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(a[key], b[key], atol=2e-6, rtol=1e-4)
    curve, straight = (read_metrics(d / "metrics.jsonl") for d in (found, expected))
    assert len(curve) == len(straight) == 3
    for row, other in zip(curve, straight, strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - {"seconds", "images_per_second"}:
            assert row[key] == pytest.approx(other[key], rel=1e-5), key


def test_two_processes_give_the_curve_of_one(single: Path, tmp_path: Path) -> None:
    assert in_group(2, train_in, config(), tmp_path / "run") == [0, 0]
    check_equal(tmp_path / "run", single)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["processes"] == 2
    assert not list((tmp_path / "run").rglob(".*.partial"))


def test_a_sharded_run_gives_the_curve_of_one_and_resumes_in_another_number(
    single: Path, tmp_path: Path
) -> None:
    """Half of it sharded over two processes, the other half in one: full-state checkpoints."""
    half = config(shard=True, budget_images=64, decay_images=128)
    assert in_group(2, train_in, half, tmp_path / "run") == [0, 0]
    saved = load_file(tmp_path / "run" / "checkpoints" / "000000000064.safetensors")
    expected = load_file(single / "checkpoints" / "000000000128.safetensors")
    assert {k: t.shape for k, t in saved.items()} == {k: t.shape for k, t in expected.items()}
    train(config(decay_images=128), tmp_path / "run", resume=True, log=silent)
    check_equal(tmp_path / "run", single)


@pytest.mark.slow
def test_a_run_of_one_process_resumes_sharded(single: Path, tmp_path: Path) -> None:
    train(config(budget_images=64, decay_images=128), tmp_path / "run", log=silent)
    sharded = config(shard=True, decay_images=128, recompute_activations=True)
    assert in_group(2, train_in, sharded, tmp_path / "run", True) == [0, 0]
    check_equal(tmp_path / "run", single)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY if name != "ddpmpp"])
def test_every_network_trains_sharded_as_in_one_process(name: str, tmp_path: Path) -> None:
    """Weights that are confined to a set are put back into it while they are spread.

    Like the U-Net, of whose parts it is made, goes DDPM++.
    """
    network = {"model": {"network": to_mapping(TINY[name])}}
    options = {"budget_images": 48, "optimizer": {"kind": "sgd"}, "sample_images": 0}
    plain = experiment({**PLAIN, **merge(PLAIN, network)}, **options)
    train(plain, tmp_path / "one", log=silent)
    sharded = replace(plain, training=replace(plain.training, shard=True))
    assert in_group(2, train_in, sharded, tmp_path / "two") == [0, 0]
    one, two = (load_file(tmp_path / run / "final.safetensors") for run in ("one", "two"))
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=2e-5, rtol=1e-3, msg=key)


def test_a_stop_of_one_process_stops_all_at_the_same_step(single: Path, tmp_path: Path) -> None:
    assert in_group(2, train_and_stop_one, config(), tmp_path / "run") == [77, 77]
    newest = max((tmp_path / "run" / "checkpoints").glob("*.json"))
    assert json.loads(newest.read_text())["state"]["images"] == 64
    train(config(), tmp_path / "run", resume=True, log=silent)
    check_equal(tmp_path / "run", single)


def test_what_the_main_process_refuses_ends_all(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("x")
    assert in_group(2, train_in, config(), tmp_path / "run") == [2, 2]
    assert in_group(2, train_in, config(batch_size=15), tmp_path / "other") == [2, 2]
    gan = experiment(GAN, shard=True)
    assert in_group(2, train_in, gan, tmp_path / "gan") == [2, 2]
    assert not (tmp_path / "gan").exists()
