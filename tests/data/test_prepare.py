"""Size and channels of a prepared image, by closed forms."""

import numpy as np
import pytest
from PIL import Image

from sfumato.data.decode import Preparation, centred_box


def prepare(image: np.ndarray, **changes: object) -> np.ndarray:
    form = {"height": 4, "width": 4, "channels": 1, "fit": "crop", "resize": "area"} | changes
    return Preparation(**form)(Image.fromarray(image))


def test_area_is_the_mean_of_the_covered_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)
    means = image.reshape(4, 3, 4, 5).mean((1, 3))
    prepared = prepare(image, fit="crop", height=4, width=4)
    # Crop to the aspect of the target first: 12 x 12 in the middle.
    middle = image[:, 4:16].reshape(4, 3, 4, 3).mean((1, 3))
    assert np.abs(prepared[0] - middle).max() <= 1
    assert np.abs(prepare(image, height=4, width=4 * 20 // 12)[0].mean() - means.mean()) < 3


def test_crop_takes_the_centre_without_scaling_when_it_fits() -> None:
    image = np.arange(4 * 10, dtype=np.uint8).reshape(4, 10)
    assert np.array_equal(prepare(image)[0], image[:, 3:7])


def test_letterbox_shows_everything_between_black_bars() -> None:
    image = np.full((8, 16), 200, np.uint8)
    prepared = prepare(image, fit="letterbox", height=8, width=8)[0]
    assert prepared[2:6].tolist() == [[200] * 8] * 4
    assert not prepared[:2].any()
    assert not prepared[6:].any()


def test_pad_moves_but_never_scales() -> None:
    digit = np.random.default_rng(0).integers(1, 256, (28, 28), dtype=np.uint8)
    padded = prepare(digit, fit="pad", height=32, width=32)[0]
    assert np.array_equal(padded[2:30, 2:30], digit)
    assert padded.sum() == digit.sum()
    assert np.array_equal(prepare(padded, fit="pad", height=28, width=28)[0], digit)


@pytest.mark.parametrize("resize", ["area", "bicubic", "lanczos"])
def test_resizing_is_antialiased(resize: str) -> None:
    """Stripes of one pixel, reduced eightfold, are grey: without antialiasing black or white."""
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    reduced = prepare(stripes, resize=resize, height=8, width=8)[0]
    assert np.abs(reduced[2:-2, 2:-2].astype(int) - 127).max() <= 6


@pytest.mark.parametrize("resize", ["area", "bicubic", "lanczos"])
def test_a_flat_image_stays_flat_and_a_ramp_monotone(resize: str) -> None:
    flat = np.full((9, 13), 131, np.uint8)
    assert (prepare(flat, resize=resize, height=20, width=6)[0] == 131).all()
    ramp = np.tile(np.linspace(40, 200, 8).astype(np.uint8), (8, 1))
    enlarged = prepare(ramp, resize=resize, height=32, width=32)[0].astype(int)
    assert (np.diff(enlarged, axis=1) >= 0).all()
    assert len(np.unique(enlarged)) > 16, "enlarging interpolates instead of repeating pixels"


def test_not_square() -> None:
    assert prepare(np.zeros((30, 30), np.uint8), height=6, width=10).shape == (1, 6, 10)
    assert centred_box((30, 30), (10, 6)) == (0, 6, 30, 24)


def test_colour_to_grey_is_the_luma_of_bt_601() -> None:
    colour = np.array([[[200, 100, 50]]], np.uint8)
    grey = prepare(colour, height=1, width=1)
    assert grey.item() == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_transparent_lies_on_white_unless_alpha_is_kept() -> None:
    image = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)
    flat = prepare(image, height=1, width=2, channels=3)
    assert flat[:, 0, :].T.tolist() == [[255, 255, 255], [10, 20, 30]]
    kept = prepare(image, height=1, width=2, channels=4)
    assert np.array_equal(kept.transpose(1, 2, 0), image)


def test_invisible_colour_does_not_bleed_when_resized() -> None:
    """Alpha-weighted averaging: the colour of a fully transparent pixel counts nothing."""
    image = np.array([[[255, 0, 0, 255], [0, 255, 0, 0]]], np.uint8)
    red, green, _, alpha = prepare(image, height=1, width=1, channels=4, fit="letterbox").ravel()
    assert (red, green) == (255, 0)
    assert alpha in (127, 128)


def test_grey_to_rgb_repeats_the_channel() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert np.array_equal(prepare(image, channels=3), np.stack([image] * 3))
