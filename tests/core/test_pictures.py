"""Grids and animations, read back with Pillow."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.core.pictures import GUTTER, image_grid, on_white, save_animation


def _images(count: int, channels: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, channels, height, width), dtype=np.uint8)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_grid_places_every_image_row_by_row(channels: int, mode: str) -> None:
    images = _images(5, channels, 4, 6)
    grid = image_grid(images, columns=2, scale=3, padding=2)
    assert grid.mode == mode
    assert grid.size == (2 * (6 * 3 + 2) + 2, 3 * (4 * 3 + 2) + 2)
    pixels = np.asarray(grid).reshape(grid.height, grid.width, channels)
    for index, (top, left) in enumerate([(2, 2), (2, 22), (16, 2), (16, 22), (30, 2)]):
        cell = pixels[top : top + 12 : 3, left : left + 18 : 3].transpose(2, 0, 1)
        np.testing.assert_array_equal(cell, images[index])
        block = pixels[top : top + 3, left : left + 3]
        assert (block == block[0, 0]).all(), "a pixel becomes a square of one colour"


def test_grid_gutter_is_dark_and_transparent_with_alpha() -> None:
    assert image_grid(_images(1, 1, 2, 2), columns=1, scale=1).getpixel((0, 0)) == GUTTER
    assert image_grid(_images(1, 4, 2, 2), columns=1).getpixel((0, 0)) == (GUTTER,) * 3 + (0,)


def test_what_is_transparent_lies_on_white_whatever_its_hidden_colour() -> None:
    picture = Image.new("RGBA", (3, 1), (10, 20, 30, 0))
    picture.putpixel((1, 0), (10, 20, 30, 255))
    picture.putpixel((2, 0), (0, 0, 0, 51))  # a fifth of black on white
    assert np.asarray(on_white(picture)).tolist() == [[[255] * 3, [10, 20, 30], [204] * 3]]
    assert on_white(Image.new("L", (1, 1), 7)).getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png"])
def test_animation_keeps_frames_and_durations(tmp_path: Path, suffix: str) -> None:
    frames = [image_grid(_images(4, 1, 3, 3) // k, columns=2, scale=4) for k in (1, 2, 3)]
    path = tmp_path / f"training{suffix}"
    save_animation(frames, path, fps=10, hold_seconds=0.5)
    durations = []
    with Image.open(path) as animation:
        assert animation.n_frames == 3
        for index, frame in enumerate(frames):
            animation.seek(index)
            animation.load()
            durations.append(animation.info["duration"])
            got = np.asarray(animation.convert("L"), dtype=int)
            np.testing.assert_allclose(got, np.asarray(frame, dtype=int), atol=1)
    assert durations == [100, 100, 600]
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "nothing temporary is left"


def test_mistakes_name_the_value(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1, 3 or 4 channels, got shape \(1, 2, 3, 3\)"):
        image_grid(_images(1, 2, 3, 3), columns=1)
    with pytest.raises(ValueError, match="columns=0"):
        image_grid(_images(1, 1, 3, 3), columns=0)
    grids = [image_grid(_images(n, 1, 3, 3), columns=1) for n in (1, 2)]
    with pytest.raises(ValueError, match="one size"):
        save_animation(grids, tmp_path / "a.webp", fps=5)
    with pytest.raises(ValueError, match=r"'\.avi'"):
        save_animation(grids[:1], tmp_path / "a.avi", fps=5)
