"""Every transform against its matrix, an exact permutation of pixels, or a closed form."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sfumato.augment import affine
from sfumato.augment.affine import move_pixels, transformed, warp
from sfumato.augment.discriminator import step_aside, vary_colour
from sfumato.augment.pipeline import amplify, cut_out, normalized_gain, recolour
from sfumato.augment.wavelets import (
    MARGIN,
    SYM2,
    SYM6,
    band_axes,
    band_filters,
    doubling,
    fold,
    shrinking,
)
from sfumato.core.noise import TrainingNoise


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("taps", "moments"), [(SYM2, 2), (SYM6, 6)])
def test_the_wavelets_are_orthonormal_with_vanishing_moments(
    taps: tuple[float, ...], moments: int
) -> None:
    """The conditions that define a symlet's lowpass up to the choice of roots."""
    h, j = torch.tensor(taps, dtype=torch.float64), torch.arange(len(taps), dtype=torch.float64)
    assert h.sum().item() == pytest.approx(math.sqrt(2))
    for shift in range(0, len(taps), 2):
        product = (h[shift:] * h[: len(h) - shift]).sum().item()
        assert product == pytest.approx(float(shift == 0), abs=1e-9)
    for order in range(moments):
        assert ((-1) ** j * j**order * h).sum().item() == pytest.approx(0, abs=1e-7)


def test_twice_the_samples_and_back_is_the_identity() -> None:
    up, down = doubling(9), shrinking(9)
    whole = torch.zeros(2 * 9 + 2 * MARGIN, 9)
    whole[MARGIN - 1 : MARGIN + 19] = up
    inner = (down @ whole)[3:-3]
    torch.testing.assert_close(inner, torch.eye(9)[3:-3], atol=1e-6, rtol=0)
    torch.testing.assert_close(up.sum(1), torch.ones(20), atol=1e-6, rtol=0)
    torch.testing.assert_close(down.sum(1), torch.ones(9), atol=1e-6, rtol=0)


def test_positions_are_reflected_about_the_outer_samples() -> None:
    found = fold(torch.tensor([-3.0, -0.5, 0.0, 2.0, 3.0, 3.5, 7.0]), 4)
    assert found.tolist() == [3.0, 0.5, 0.0, 2.0, 3.0, 2.5, 1.0]
    assert fold(torch.tensor([-2, 5]), 1).tolist() == [0, 0]


EXACT: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = [
    (affine.scale_2d(column(-1), column(1)), lambda x: x.flip(3)),
    (affine.scale_2d(column(1), column(-1)), lambda x: x.flip(2)),
    (affine.rotate_2d(column(math.pi)), lambda x: x.flip(2, 3)),
]


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (2, 1, 5, 8), (2, 4, 7, 7)], ids=str)
def test_flips_turns_and_whole_steps_move_pixels_exactly(shape: tuple[int, ...]) -> None:
    x = images(*shape)
    for matrix, expected in EXACT:
        assert torch.equal(move_pixels(x, matrix.expand(2, 3, 3)), expected(x))
    if shape[2] == shape[3]:
        turned = move_pixels(x, affine.rotate_2d(column(math.pi / 2, -math.pi / 2)))
        assert torch.equal(turned[0], x[0].rot90(-1, (1, 2)))  # clockwise
        assert torch.equal(turned[1], x[1].rot90(1, (1, 2)))
    moved = move_pixels(x, affine.translate_2d(column(2, 0), column(-1, 0)))
    padded = torch.nn.functional.pad(x[:1], (2, 0, 0, 1), mode="reflect")
    assert torch.equal(moved[:1], padded[:, :, 1:, :-2])
    assert torch.equal(moved[1], x[1])


def smooth(x: Tensor, y: Tensor) -> Tensor:
    """A picture without high frequencies that is 0 near the border."""
    bump = torch.exp(-((x - 3) ** 2 / 40 + (y + 2) ** 2 / 40))
    return bump * torch.cos(0.15 * x - 0.1 * y)


PLANE = {
    "rotation": affine.rotate_2d(column(0.7)),
    "scaling": affine.scale_2d(column(1.3), column(1.3)),
    "shrinking": affine.scale_2d(column(0.8), column(0.8)),
    "stretching": affine.rotate_2d(column(-0.4))
    @ affine.scale_2d(column(1.2), column(1 / 1.2))
    @ affine.rotate_2d(column(0.4)),
    "translation": affine.translate_2d(column(2.3), column(-1.6)),
    "whole step": affine.translate_2d(column(2.0), column(1.0)),
}


@pytest.mark.parametrize("name", PLANE)
@pytest.mark.parametrize("size", [(64, 64), (56, 72)], ids=str)
def test_a_warp_moves_a_function_by_the_inverse_matrix(name: str, size: tuple[int, int]) -> None:
    y, x = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size), indexing="ij"
    )
    back = torch.linalg.inv(PLANE[name][0])
    source = (
        torch.einsum("ij,jhw->ihw", back[:2, :2], torch.stack([x, y])) + back[:2, 2, None, None]
    )
    inside = (source[0].abs() < size[1] / 2) & (source[1].abs() < size[0] / 2)
    expected = torch.where(inside, smooth(source[0], source[1]), 0.0)
    found = warp(smooth(x, y)[None, None], PLANE[name])[0, 0] * inside
    torch.testing.assert_close(found, expected, atol=4e-3, rtol=0)
    if name == "whole step":
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_warp_that_is_a_quarter_turn_is_near_the_exact_one() -> None:
    y, x = torch.meshgrid(*(torch.arange(32.0) - 15.5,) * 2, indexing="ij")
    picture = smooth(x, y)[None, None]
    matrix = affine.rotate_2d(column(math.pi / 2))
    torch.testing.assert_close(
        warp(picture, matrix), move_pixels(picture, matrix), atol=4e-3, rtol=0
    )


def test_a_warp_can_be_differentiated_twice() -> None:
    x = images(1, 1, 5, 4).double().requires_grad_()
    matrices = affine.rotate_2d(column(0.4)) @ affine.translate_2d(column(1), column(2))
    assert torch.autograd.gradcheck(lambda x: warp(x, matrices), x)
    assert torch.autograd.gradgradcheck(lambda x: warp(x, matrices) ** 2, x)


def test_images_without_a_change_stay_to_the_bit() -> None:
    x = images(3, 1, 8, 8).requires_grad_()
    matrices = affine.rotate_2d(column(0, 0.5, 0))
    found = transformed(x, matrices, warp)
    assert torch.equal(found[[0, 2]], x[[0, 2]])
    torch.testing.assert_close(found[1:2], warp(x[1:2], matrices[1:2]))
    (gradient,) = torch.autograd.grad(found[0].sum(), x)
    assert torch.equal(gradient[0], torch.ones(1, 8, 8))
    assert not gradient[1:].any()


def test_colour_matrices() -> None:
    rgb = torch.tensor([0.2, -0.5, 0.9, 1.0], dtype=torch.float64)
    mean = float(rgb[:3].mean())

    def applied(matrix: Tensor) -> list[float]:
        found = matrix[0] @ rgb
        assert found[3] == 1
        return found[:3].tolist()

    assert applied(affine.translate_colour(column(0.1))) == pytest.approx([0.3, -0.4, 1.0])
    assert applied(affine.scale_colour(column(2))) == pytest.approx([0.4, -1.0, 1.8])
    # A third of a turn about the grey axis exchanges the channels: red goes where green was.
    third = column(2 * math.pi / 3)
    assert applied(affine.rotate_hue(third)) == pytest.approx([0.9, 0.2, -0.5])
    assert applied(affine.saturate(column(0))) == pytest.approx([mean] * 3)
    doubled = [mean + 2 * (v - mean) for v in rgb[:3].tolist()]
    assert applied(affine.saturate(column(2))) == pytest.approx(doubled)
    flipped = [v - 2 * mean for v in rgb[:3].tolist()]
    assert applied(affine.flip_luma(column(1))) == pytest.approx(flipped)
    assert applied(affine.flip_luma(column(0))) == pytest.approx(rgb[:3].tolist())


def test_colours_of_grey_and_transparent_images() -> None:
    x = images(2, 1, 3, 3).double()
    matrix = affine.rotate_hue(column(0.3, 1)) @ affine.flip_luma(column(1, 0))
    matrix = affine.saturate(column(2, 0.5)) @ affine.translate_colour(column(0.2, 0.1)) @ matrix
    as_colour = recolour(x.expand(2, 3, 3, 3), matrix)
    torch.testing.assert_close(as_colour.mean(1, keepdim=True), recolour(x, matrix))
    rgba = images(2, 4, 3, 3)
    found = recolour(rgba, matrix)
    assert torch.equal(found[:, 3], rgba[:, 3])
    torch.testing.assert_close(found[:, :3], recolour(rgba[:, :3], matrix))


def test_the_four_bands_add_up_and_lie_where_they_should() -> None:
    filters = band_filters()
    impulse = torch.zeros(filters.shape[1], dtype=torch.float64)
    impulse[filters.shape[1] // 2] = 1
    torch.testing.assert_close(filters.sum(0), impulse)
    torch.testing.assert_close(filters, filters.flip(1))  # zero phase
    lags = (torch.arange(filters.shape[1]) - filters.shape[1] // 2).double()
    centres = torch.tensor([0.0, 3 / 16, 3 / 8, 1.0], dtype=torch.float64) * math.pi
    response = filters @ torch.cos(lags[:, None] * centres)
    assert response[0, 0].item() == pytest.approx(1)
    assert response[3, 3].item() == pytest.approx(1)
    assert response.argmax(0).tolist() == [0, 1, 2, 3]
    assert response.min() > -1e-9
    middle = filters @ torch.cos(lags * math.pi / 2)  # halfway between the upper two bands
    assert middle[3].item() == pytest.approx(0.5)


def test_amplifying_a_band_multiplies_its_waves() -> None:
    wave = torch.cos(torch.arange(64) * math.pi)  # the highest frequency, and then a constant
    x = torch.stack([wave.expand(64, 64), torch.ones(64, 64)])[:, None]
    gains = torch.tensor([[1.0, 1, 1, 3], [1.0, 1, 1, 3]])
    found = amplify(x, gains)
    torch.testing.assert_close(found[0], 3 * x[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], x[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(band_axes(5).sum(0), torch.eye(5), atol=1e-6, rtol=0)


def test_normalized_gains_keep_the_power_of_a_natural_image() -> None:
    for band in range(4):
        gains = normalized_gain(band, column(0.3, 4.0))
        power = (torch.tensor([10, 1, 1, 1]) / 13 * gains**2).sum(1)
        torch.testing.assert_close(power, torch.ones(2, dtype=torch.float64))
        assert (gains[:, band] / gains[:, (band + 1) % 4]).tolist() == pytest.approx([0.3, 4.0])


def test_cutouts_cover_their_rectangle() -> None:
    x = torch.ones(3, 2, 8, 12)
    found = cut_out(x, torch.tensor([[0.5, 0.5], [0.0, 1.0], [math.inf, 0.5]]), 0.5)
    expected = torch.ones(3, 2, 8, 12)
    expected[0, :, 2:6, 3:9] = 0
    expected[1, :, 6:, :3] = 0
    assert torch.equal(found, expected)


def test_diff_augment_varies_each_image_about_itself() -> None:
    noise = TrainingNoise(0, global_batch=500)
    grey = torch.full((500, 3, 4, 4), 0.25)
    # Of a uniform grey image only the brightness shows.
    shift = vary_colour(grey, noise) - grey
    assert shift.std((1, 2, 3)).max() < 1e-6
    assert -0.5 <= shift.min() < -0.48
    assert 0.48 < shift.max() <= 0.5
    x = images(500, 1, 8, 8)
    moved = step_aside(x, TrainingNoise(1, global_batch=500), 0.125)
    seen = torch.zeros(3, 3)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
            window = padded[:, :, 1 - dy : 9 - dy, 1 - dx : 9 - dx]
            seen[dy + 1, dx + 1] = (window == moved).flatten(1).all(1).sum()
    assert seen.sum() == 500
    assert seen.min() > 25  # binomial: mean 55.6, standard deviation 7.0
