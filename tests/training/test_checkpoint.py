"""Checkpoints that cannot be written, and files that nobody should trust."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sfumato.core.errors import RunError
from sfumato.core.tensors import read_tensors, write_tensors
from sfumato.experiment.experiment import build_model
from sfumato.experiment.training_run import train
from sfumato.training import checkpoint as room
from sfumato.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    restore_tensors,
    save_checkpoint,
    tidy,
    trainer_tensors,
)
from sfumato.training.trainer import Trainer
from sfumato.training.training_state import TrainingState, read_state
from support.experiments import DIFFUSION, experiment
from support.processes import finished, silent, train_on_a_full_disk

STATE = {"images": 7, "step": 1, "seconds": 0.5}


def saved(folder: Path, images: int = 7, keep: int = 10) -> Path:
    tensors = {"model/a": torch.arange(6.0).reshape(2, 3), "model/b": torch.tensor(3)}
    return save_checkpoint(folder, images, Checkpoint(tensors, {**STATE, "images": images}), keep)


def vouched(path: Path) -> None:
    """Make the record of a checkpoint vouch for its file as it is now: an attacker can."""
    record = json.loads(path.with_suffix(".json").read_text())
    record["sha256"] = room._sha256(path)
    path.with_suffix(".json").write_text(json.dumps(record))


def test_others_may_read_weights_as_any_file(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(3)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_the_best_is_spared_and_the_rest_of_the_old_deleted(tmp_path: Path) -> None:
    for images in (1, 2, 3, 4):
        save_checkpoint(tmp_path, images, Checkpoint({}, {**STATE}), keep=2, spare=1)
    assert [int(path.stem) for path in list_checkpoints(tmp_path)] == [4, 3, 1]
    assert len(list(tmp_path.iterdir())) == 6


def test_an_unusable_newer_checkpoint_does_not_push_out_the_good_one(tmp_path: Path) -> None:
    """With keep = 1 the broken one, being newer, would have been the one to keep."""
    saved(tmp_path, 32)
    broken = saved(tmp_path, 64)
    broken.write_bytes(broken.read_bytes()[:-1])
    found, warnings = load_newest(tmp_path)
    assert found.state["images"] == 32
    assert len(warnings) == 1
    tidy(tmp_path, 32, keep=1)
    saved(tmp_path, 48, keep=1)
    assert load_newest(tmp_path)[0].state["images"] == 48


def test_a_full_disk_leaves_the_old_checkpoints_and_says_so(tmp_path: Path) -> None:
    """The limit on the size of files stands for the disk; the process is a real one."""
    run_dir = tmp_path / "run"
    config = experiment(DIFFUSION, budget_images=64, sample_images=0)
    train(config, run_dir, log=silent)
    before = {p.name: p.read_bytes() for p in (run_dir / "checkpoints").iterdir()}
    more = experiment(DIFFUSION, sample_images=0, decay_images=64)
    assert finished(train_on_a_full_disk, more, run_dir) == 2
    after = {p.name: p.read_bytes() for p in (run_dir / "checkpoints").iterdir()}
    assert after == before
    train(more, run_dir, resume=True, log=silent)  # there is space again
    assert json.loads((run_dir / "summary.json").read_text())["images_seen"] == 128


def test_a_place_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(RunError, match=r"cannot write run directory .*--output"):
        train(experiment(DIFFUSION), blocked / "run", log=silent)


# What follows is about files made by others.


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_are_refused_and_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Truncated, bits flipped, bytes put in: a RunError, or the very tensors (flips in padding)."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = saved(folder)
    raw = bytearray(path.read_bytes())
    how = data.draw(st.sampled_from(["truncate", "flip", "insert", "header"]))
    at = data.draw(st.integers(0, len(raw) - 1))
    if how == "truncate":
        raw = raw[:at]
    elif how == "flip":
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "insert":
        raw[at:at] = data.draw(st.binary(min_size=1, max_size=50))
    else:  # the length of the header
        raw[:8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    assume(raw != path.read_bytes())  # the true length of the header, or the same bytes put in
    path.write_bytes(raw)
    with pytest.raises(RunError, match="altered"):
        load_checkpoint(path)
    vouched(path)
    try:
        tensors = load_checkpoint(path).tensors
    except RunError:
        return
    assert sum(t.numel() * t.element_size() for t in tensors.values()) <= len(raw)


def header_file(path: Path, header: Any, body: bytes = b"") -> Path:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**63]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [2**60, 2**60 + 4]}},
        {"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1] * 10_000, "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": "x", "data_offsets": None}},
        {"a": None},
        [],
        b"[" * 100_000,
        b"\xff\xfe",
        b"",
    ],
    ids=str,
)
def test_absurd_headers_are_refused(tmp_path: Path, header: Any) -> None:
    with pytest.raises(RunError, match="not a complete safetensors file"):
        read_tensors(header_file(tmp_path / "x.safetensors", header, b"\0" * 4))


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[" * 5_000,
        "[]",
        "null",
        '{"format": 1}',
        '{"format": "1"}',
        '{"format": 1, "sha256": "HASH", "state": []}',
        '{"format": 1, "sha256": "HASH"}',
        '{"format": ' + "9" * 5_000 + "}",
        '{"format": 1, "padding": "' + "x" * 2**21 + '"}',
    ],
    ids=lambda text: text[:30],
)
def test_absurd_records_are_refused(tmp_path: Path, record: str) -> None:
    path = saved(tmp_path)
    path.with_suffix(".json").write_text(record.replace("HASH", room._sha256(path)))
    with pytest.raises(RunError):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        {"images": "7"},
        {"images": -1},
        {"images": 1.5},
        {"seconds": float("nan")},
        {"rate_factor": 0.0},
        {"rows": 10**30, "unknown": 1},
        {"best": {"images": 3}},
        {"loss_scale": [1.0]},
        {"largest_losses": {"loss/x": float("inf")}},
    ],
    ids=str,
)
def test_states_of_other_types_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"damaged or of another version"):
        read_state({**STATE, **change}, "here")
    assert read_state(STATE, "here") == TrainingState(images=7, step=1, seconds=0.5)


@pytest.fixture(scope="module")
def trained() -> Trainer:
    config = experiment(DIFFUSION)
    from sfumato.data.catalogue import load

    data = load(config.data).train
    trainer = Trainer(config.training, build_model(config, data), torch.device("cpu"))
    trainer.step(trainer.prepare(*next(data.batches(16, 0))))
    return trainer


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("../../etc/passwd", torch.zeros(1)),
        ("/etc/passwd", torch.zeros(1)),
        ("model/../../x", torch.zeros(1)),
        ("optimizer/0/0/exp_avg", torch.zeros(1)),
        ("optimizer/0/999999/exp_avg", torch.zeros(1)),
        ("optimizer/0/x/exp_avg", torch.zeros(1)),
        ("optimizer/0/0/evil", torch.zeros(1)),
        ("optimizer/9/0/exp_avg", torch.zeros(1)),
        ("average/7/a", torch.zeros(1)),
        ("means/loss/denoiser", torch.zeros(3)),
        ("model/denoiser.network.stem.weight", torch.zeros(1, dtype=torch.int64)),
        ("model/denoiser.network.head.bias", torch.zeros(0, 2**40)),
        ("", torch.zeros(1)),
    ],
    ids=str,
)
def test_tensors_that_do_not_belong_are_refused_with_their_name(
    trained: Trainer, tmp_path: Path, name: str, tensor: torch.Tensor
) -> None:
    tensors = {key: t.clone() for key, t in trainer_tensors(trained).items()}
    before = {key: t.clone() for key, t in tensors.items()}
    save_file(tensors | {name: tensor}, tmp_path / "x.safetensors")
    given = load_file(tmp_path / "x.safetensors")
    with pytest.raises(RunError):
        restore_tensors(trained, given, "x")
    restore_tensors(trained, before, "itself")  # and the right ones still load
    assert all(torch.equal(t, before[key]) for key, t in trainer_tensors(trained).items())
    assert list(tmp_path.iterdir()) == [tmp_path / "x.safetensors"]


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    torch.save(Evil(), tmp_path / "x.safetensors")
    with pytest.raises(RunError, match="not a complete safetensors file"):
        read_tensors(tmp_path / "x.safetensors")
    assert not (tmp_path / "executed").exists()
