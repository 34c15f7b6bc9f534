"""`sfumato data`: what it prints and writes, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import main
from sfumato.data.catalogue import CATALOGUE, load
from sfumato.data.data_config import DataConfig
from sfumato.data.output import channel_statistics, num_shared


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_list_names_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in CATALOGUE)
    assert "hf:NAME" in out


def test_show_prints_the_counts_and_draws_the_images(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    assert main(["data", "show", "digits", "data.classes=[3,8]", "data.limit=100"]) == 0
    out = capsys.readouterr().out
    for part in ("digits", "1 x 8 x 8", "100", "119", "digits.png"):
        assert part in out
    sheet = np.asarray(Image.open(here / "digits.png").convert("L"))
    # Digits are drawn enlarged sixfold, so their values occur on the sheet, black included.
    assert (sheet == 0).mean() > 0.1


def test_show_augment_draws_images_beside_their_augmented_versions(here: Path) -> None:
    show = ["data", "show", "digits", "data.limit=8", "-o", "a.png", "--augment"]
    assert main([*show, "0.9", "--changes", "cutout"]) == 0
    sheet = np.asarray(Image.open(here / "a.png").convert("L"))
    cells = sheet[6:, 6:].reshape(8, 54, 12, 54)[:, :48, :, :48]  # digits enlarged sixfold
    grey = (cells == 128).mean((1, 3))
    assert (grey[:, 0] < 0.1).all(), "originals come first"
    assert (grey[:, 1:] > 0.05).mean() > 0.7
    assert main([*show, "1.5"]) == 2
    assert main([*show, "--changes", "rain"]) == 2
    assert main(["data", "show", "digits", "--changes", "blit"]) == 2


def test_statistics_are_those_of_all_pixels() -> None:
    train = load(DataConfig()).train
    mean, deviation = channel_statistics(train)
    assert mean.item() == pytest.approx(train.images.mean(), abs=1e-9)
    assert deviation.item() == pytest.approx(train.images.std(), abs=1e-9)


def test_shared_images_are_counted(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x[:15], x_test=x[12:])
    assert num_shared(load(DataConfig(source=str(tmp_path / "a.npz")))) == 3


def test_pack_prints_where_and_what_was_odd(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "in").mkdir()
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(image).save(here / "in" / f"{number}.png")
    (here / "in" / "bad.png").write_bytes(b"x")
    assert main(["data", "pack", "in", "data.resolution=8", "-o", "out", "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "6 images, 3 x 8 x 8" in out
    assert "1 left out: could not be decoded (bad.png" in out
    assert (here / "out" / "train" / "images.npy").is_file()
    assert main(["data", "pack", "in", "data.resolution=8", "--strict"]) == 2
    assert "--strict refuses" in capsys.readouterr().err


def test_export_as_folder_and_npz_come_back_the_same(here: Path) -> None:
    original = load(DataConfig(limit=40))
    for target in ("folder", "file.npz"):
        assert main(["data", "export", "digits", "data.limit=40", "--output", target]) == 0
        back = load(DataConfig(source=str(here / target)), workers=1)
        for a, b in ((back.train, original.train), (back.held_out, original.held_out)):
            assert sorted(map(bytes, a.hashes)) == sorted(map(bytes, b.hashes))
            assert a.class_names == b.class_names
            pairs_a = {(bytes(h), int(n)) for h, n in zip(a.hashes, a.labels, strict=True)}
            pairs_b = {(bytes(h), int(n)) for h, n in zip(b.hashes, b.labels, strict=True)}
            assert pairs_a == pairs_b


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "digitz"], "did you mean 'digits'"),
        (["show", "digits", "data.clases=[1]"], "did you mean 'classes'"),
        (["show", "digits", "training.seed=1"], "write data.KEY=VALUE"),
        (["show", "digits", "data.classes=[cat]"], "no class 'cat'"),
        (["show", "digits", "data.resolution=big"], "data.resolution|'resolution"),
        (["export", "digits", "-o", "."], "exists already"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
