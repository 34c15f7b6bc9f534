"""Packing: what is left out and noted, the cache, kills and crashes, full and read-only disks."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.deadly_records import Deadly
from sfumato.core.errors import DataError
from sfumato.data import packing
from sfumato.data.catalogue import find, load
from sfumato.data.data_config import DataConfig
from sfumato.data.decode import Preparation
from sfumato.data.packed import DROPPED, PackedSplits
from sfumato.data.packing import pack
from sfumato.data.packing_processes import ChunkReport, prepare_range
from sfumato.data.source import RawSplit, RawSplits, Records, Source

RNG = np.random.default_rng(0)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(size: int = 16, mode: str = "RGB") -> Image.Image:
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    return Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8))


def claiming(side: int, png: bytes) -> bytes:
    """A PNG whose header claims to be `side` x `side` pixels."""
    header = png[12:16] + side.to_bytes(4, "big") * 2 + png[24:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


def packed(source: Path, strict: bool = False, **changes: Any) -> PackedSplits:
    config = DataConfig(source=str(source), **changes)
    return pack(find(config.source), config, strict, workers=2)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with every kind of odd image, and ten good ones of 16x16."""
    folder = tmp_path / "odd"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    good = [noise() for _ in range(10)]
    files = {f"good-{i}.png": encoded(image) for i, image in enumerate(good)} | {
        "again.png": encoded(good[0]),
        "text.jpg": b"this is no image",
        "cut.png": encoded(good[1])[:200],
        "dot.png": encoded(noise(1)),
        "small.png": encoded(noise(9)),
        "grey.png": encoded(noise(16, "L")),
        "cmyk.jpg": encoded(noise().convert("CMYK"), "JPEG"),
        "deep.png": encoded(Image.fromarray(RNG.integers(0, 65536, (16, 16), dtype=np.uint16))),
        "palette.png": encoded(noise().quantize(16)),
        "glass.png": encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 80))),
        "turned.png": encoded(noise(), exif=exif.tobytes()),
        "film.gif": encoded(noise(), "GIF", save_all=True, append_images=[noise()]),
        "bomb.png": claiming(50_000, encoded(good[2])),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_every_odd_image_is_handled_and_counted(odd: Path) -> None:
    result = packed(odd).train
    examples = {kind: found.examples for kind, found in result.summary.findings.items()}
    assert {kind: [e.split(":")[0] for e in found] for kind, found in examples.items()} == {
        "unreadable": ["cut.png", "text.jpg"],
        "bomb": ["bomb.png"],
        "tiny": ["dot.png"],
        "enlarged": ["small.png"],
        "grey": ["deep.png", "grey.png"],
        "cmyk": ["cmyk.jpg"],
        "16-bit": ["deep.png"],
        "palette": ["film.gif", "palette.png"],
        "transparent": ["glass.png"],
        "rotated": ["turned.png"],
        "animated": ["film.gif"],
        "duplicate": ["good-0.png"],
    }
    assert result.images.shape == (19, 3, 16, 16)
    assert sum(f.count for kind, f in result.summary.findings.items() if kind in DROPPED) == 4
    glass = 255 - np.array([0, 80, 80])  # red, 80/255 opaque, on white
    assert any(np.abs(image[:, 3, 3].astype(int) - glass).max() <= 1 for image in result.images)


def test_images_keep_their_labels_when_others_are_left_out(tmp_path: Path) -> None:
    for number in range(12):
        name = tmp_path / ("red" if number % 2 else "blue") / f"{number}.png"
        name.parent.mkdir(exist_ok=True)
        colour = ((200 + number, 0, 0), (0, 0, 200 + number))[number % 2 == 0]
        name.write_bytes(b"x" if number in (2, 5, 6) else encoded(Image.new("RGB", (4, 4), colour)))
    result = packed(tmp_path).train
    assert result.labels is not None
    assert len(result.images) == 9
    for image, label in zip(result.images, result.labels, strict=True):
        assert result.class_names[label] == ("red" if image[0].any() else "blue")


def test_strict_refuses_and_names_them(odd: Path) -> None:
    with pytest.raises(DataError) as refused:
        packed(odd, strict=True)
    for part in ("text.jpg", "bomb.png", "deep.png", "good-0.png", "--strict"):
        assert part in str(refused.value)
    assert len(packed(odd).train.images) == 19, "without --strict the packed set serves"


def test_auto_is_grey_only_if_all_are_and_the_most_common_size(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(encoded(noise(10 + 2 * (number > 2), "L")))
    assert packed(tmp_path).train.images.shape == (5, 1, 10, 10)
    (tmp_path / "colour.png").write_bytes(encoded(noise(10)))
    assert packed(tmp_path).train.images.shape == (6, 3, 10, 10)
    assert packed(tmp_path, resolution=(6, 8), channels=4).train.images.shape == (6, 4, 6, 8)


def test_nothing_usable_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="none of its images can be read"):
        packed(tmp_path)
    with pytest.raises(DataError, match=r"none of 1 images can be used.*a\.png"):
        packed(tmp_path, resolution=8, channels=3)


def test_cache_is_keyed_by_content_and_preparation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{number}.png").write_bytes(encoded(noise()))
    first = packed(tmp_path / "a")
    # The same content elsewhere, under another date: found without decoding anything again.
    (tmp_path / "b").mkdir()
    (tmp_path / "a").rename(tmp_path / "b" / "a")
    os.utime(tmp_path / "b" / "a" / "0.png", (1, 1))
    with monkeypatch.context() as patched:
        patched.setattr(packing, "_pack_into", None)
        assert packed(tmp_path / "b" / "a").folder == first.folder
    changes: list[dict[str, Any]] = [
        {"resolution": 8},
        {"channels": 1},
        {"fit": "pad"},
        {"resize": "lanczos"},
    ]
    folders = {packed(tmp_path / "b" / "a", **change).folder for change in changes}
    (tmp_path / "b" / "a" / "0.png").write_bytes(encoded(noise()))
    folders |= {first.folder, packed(tmp_path / "b" / "a").folder}
    assert len(folders) == 6


def test_a_cache_that_cannot_be_written_serves_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise()))
    first = packed(tmp_path)
    monkeypatch.setattr("sfumato.data.cache.os.access", lambda *_: False)
    assert packed(tmp_path).folder == first.folder
    with pytest.raises(DataError, match=r"cannot write to the cache .* SFUMATO_CACHE"):
        packed(tmp_path, resolution=4)


def test_damaged_packed_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise()))
    folder = packed(tmp_path).folder
    assert folder is not None
    images = folder / "train" / "images.npy"
    images.write_bytes(images.read_bytes()[:-7])
    with pytest.raises(DataError, match="delete the folder and pack it again"):
        packed(tmp_path)


CHILD = """
import sys
from sfumato.data import packing
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
packing.CHUNK = 8
load(DataConfig(source=sys.argv[1], resolution=16, channels=3), workers=2)
"""

PATIENCE = 600
"""Seconds; only a process that hangs needs that many, however busy the machine is."""


def many(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        content = b"bad" if number % 17 == 3 else encoded(noise(128), compress_level=0)
        (folder / f"{number:04}.png").write_bytes(content)
    return folder


def wait_for(pattern: str, folder: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    """Until that many files match, in a process that is still running."""
    deadline = time.monotonic() + PATIENCE
    while len(list(folder.glob(pattern))) < count:
        assert process.poll() is None, "it finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def alive(name: str) -> list[int]:
    """Processes with `name` in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if name.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_packing_goes_on_where_it_was_killed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    """Killed some times, it never does a finished chunk again, and nothing differs at the end."""
    folder = many(tmp_path / "many", 400)
    marker = f"SFUMATO_TEST={tmp_path}"
    environment = os.environ | dict([marker.split("=")])
    for kill in range(1, kills + 1):
        process = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], env=environment)
        wait_for("packed/*.partial/train/chunks/[0-9]*.json", cache, 10 * kill, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + PATIENCE
    while alive(marker):  # the packing processes end with their parent
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert list(cache.glob("packed/*/train/set.json")) == []

    done = {int(p.stem) for p in cache.glob("packed/*.partial/train/chunks/[0-9]*.json")}
    prepared: list[int] = []
    original = packing.run_ranges

    def recorded(job: Any, ranges: Any, *others: Any) -> Any:
        prepared.extend(start for start, _ in ranges)
        return original(job, ranges, *others)

    monkeypatch.setattr(packing, "CHUNK", 8)
    monkeypatch.setattr(packing, "run_ranges", recorded)
    resumed = packed(folder, resolution=16, channels=3)
    assert 10 * kills <= len(done) < 50
    assert set(prepared) == set(range(0, 400, 8)) - done

    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "other"))
    whole = packed(folder, resolution=16, channels=3)
    assert np.array_equal(resumed.train.images, whole.train.images)
    assert np.array_equal(resumed.train.hashes, whole.train.hashes)
    assert resumed.train.summary == whole.train.summary
    assert len(whole.train.images) == 400 - 24
    leftovers = {p.name for p in (cache / "packed").rglob("*") if p.is_file()}
    assert {n for n in leftovers if not n.endswith(".lock")} == {
        "images.npy",
        "hashes.npy",
        "set.json",
    }


@pytest.mark.slow
def test_two_processes_pack_once(tmp_path: Path, cache: Path) -> None:
    """As the ranks of a training run do: the second waits and uses what the first made."""
    folder = many(tmp_path / "many", 40)
    command = [sys.executable, "-c", CHILD, str(folder)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [p.wait(PATIENCE) for p in processes] == [0, 0]
    assert len(list(cache.glob("packed/*/train/set.json"))) == 1


def test_an_image_that_crashes_the_decoder_is_left_out_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"identity")
    parts = RawSplits(
        RawSplit(Deadly([f"number {i}" for i in range(60)], encoded(noise()), 21), None), None, ()
    )
    source = Source("deadly", (path,), tmp_path, lambda: parts)
    result = pack(source, DataConfig(source="deadly", resolution=8, channels=3), False, 2).train
    assert len(result.images) == 59
    assert result.summary.findings["crashed"].examples == ["number 21: the decoder crashed"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_full_and_read_only_disks_are_explained_and_cost_nothing_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    folder = many(tmp_path / "many", 40)
    monkeypatch.setattr(packing, "CHUNK", 8)
    original, written = packing.write_json, []

    def failing(path: Path, value: Any) -> None:
        if len(written) == 2:
            raise OSError(error, os.strerror(error))
        written.append(int(path.stem))
        original(path, value)

    with monkeypatch.context() as patched:
        patched.setattr(packing, "write_json", failing)
        with pytest.raises(
            DataError, match=f"{os.strerror(error)}; make room or set SFUMATO_CACHE"
        ):
            packed(folder, resolution=16, channels=3)
    remaining: list[int] = []
    run_ranges = packing.run_ranges

    def recorded(job: Any, ranges: Any, *others: Any) -> Any:
        remaining.extend(start for start, _ in ranges)
        return run_ranges(job, ranges, *others)

    monkeypatch.setattr(packing, "run_ranges", recorded)
    assert len(packed(folder, resolution=16, channels=3).train.images) == 37
    assert set(remaining) == {0, 8, 16, 24, 32} - set(written)


def test_too_small_a_disk_is_noticed_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = many(tmp_path / "many", 10)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("sfumato.data.cache.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs 7\.68 kB, but only 1 kB are free"):
        packed(folder, resolution=16, channels=3)


def test_a_file_that_cannot_be_opened_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encoded(noise()))
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = packed(folder).train
    assert len(found.images) == 3
    assert "gone.png: [Errno 2] No such file" in found.summary.findings["unreadable"].examples[0]
    (tmp_path / "nowhere.png").write_bytes(encoded(noise()))  # nor is its absence remembered
    assert len(packed(folder).train.images) == 4


def test_chunks_do_not_depend_on_where_they_are_cut() -> None:
    class Some(Records):
        files = [encoded(noise(20)) if i != 4 else b"bad" for i in range(9)]  # noqa: RUF012

        def read(self, index: int) -> bytes:
            return self.files[index]

    records = Some("012345678")
    form = Preparation(10, 10, 3, "crop", "bicubic")
    whole, report = prepare_range(records, 0, 9, form)
    left, a = prepare_range(records, 0, 5, form)
    right, b = prepare_range(records, 5, 9, form)
    assert np.array_equal(np.concatenate([left, right]), whole)
    assert a + b == report
    assert report.dropped["4"][0] == "unreadable"
    assert isinstance(report, ChunkReport)


def test_packed_set_written_elsewhere_is_read_as_it_is(tmp_path: Path) -> None:
    from sfumato.data.output import write_packed_splits

    splits = load(DataConfig(classes=("3", "8"), limit=50))
    write_packed_splits(splits, tmp_path / "some")
    again = load(DataConfig(source=str(tmp_path / "some")))
    assert again.train.digest == splits.train.digest
    assert again.held_out.digest == splits.held_out.digest
    assert json.loads((tmp_path / "some/train/set.json").read_text())["class_names"] == ["3", "8"]
    with pytest.raises(DataError, match="packed as 1 x 8 x 8, but resolution is 16"):
        load(DataConfig(source=str(tmp_path / "some"), resolution=16))
