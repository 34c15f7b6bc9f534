"""Packing processes: what comes back from them, how they die, and what they do not run."""

import errno
import io
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.deadly_records import Deadly
from data.failing_job import Failing
from sfumato.core.errors import DataError
from sfumato.data.packing_processes import ChunkReport, HeaderJob, HeaderReport, run_ranges


def test_reports_and_errors_come_back(capfd: pytest.CaptureFixture[str]) -> None:
    found = list(run_ranges(Failing(None), [(2, 5)], HeaderReport, 1))
    assert found == [(2, 5, HeaderReport({"4 6": 3}, 2))]
    for error, kind, words in (
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left"),
        (DataError("it ends early"), DataError, "^it ends early$"),
        (ValueError("odd"), RuntimeError, "^ValueError: odd$"),
    ):
        with pytest.raises(kind, match=words) as caught:
            list(run_ranges(Failing(error), [(0, 1)], HeaderReport, 1))
        assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)
    out, err = capfd.readouterr()
    assert "printed by a library" in err
    assert not out, "the standard output belongs to the command"


def test_a_chunk_is_the_same_after_json() -> None:
    chunk = ChunkReport({"7": ["tiny", "2x2 pixels"]}, {"grey": [3]}, ["00"])
    assert ChunkReport(**json.loads(json.dumps(asdict(chunk)))) == chunk


def test_a_process_that_dies_loses_one_image_and_no_other_range() -> None:
    good = io.BytesIO()
    Image.new("RGB", (3, 2)).save(good, "PNG")
    job = HeaderJob(Deadly([f"number {i}" for i in range(60)], good.getvalue(), 21))
    ranges = [(start, start + 10) for start in range(0, 60, 10)]
    found = {start: report for start, _, report in run_ranges(job, ranges, HeaderReport, 2)}
    expected = {start: HeaderReport({"2 3": 10}, 10) for start, _ in ranges}
    assert found == expected | {20: HeaderReport({"2 3": 9}, 9)}


SCRIPT = """
import os, sys
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
import multiprocessing.popen_spawn_posix, multiprocessing.resource_tracker
os.chdir(sys.argv[2])
sys.path.insert(0, "")
print("images:", len(load(DataConfig(source=sys.argv[1]), workers=2).train))
"""
"""A script without `if __name__ == "__main__"`."""


@pytest.mark.skipif(sys.platform == "win32", reason="imports the spawn of POSIX")
def test_a_process_runs_neither_the_script_nor_modules_of_the_current_folder(
    tmp_path: Path,
) -> None:
    images, planted, script = tmp_path / "images", tmp_path / "planted", tmp_path / "script.py"
    images.mkdir()
    for number in range(5):
        pixels = np.full((4, 4, 3), number, np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    planted.mkdir()
    ran = tmp_path / "ran"
    for name in ("json", "pickle", "multiprocessing", "concurrent", "numpy", "PIL", "signal"):
        (planted / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write({name!r})\n")
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(images), str(planted)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "images: 4\n"
    assert not ran.exists(), ran.read_text()
