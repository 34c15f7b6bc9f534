"""Atomic writing: the old content or the new, never half."""

import json
from pathlib import Path

import pytest

from sfumato.core.files import atomic_path, write_json


def test_a_failure_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_success_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for value in (1, 2):
        write_json(path, value)
    assert json.loads(path.read_text()) == 2
