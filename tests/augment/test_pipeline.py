"""The pipeline as a whole: frequencies, independence, and that it does not leak."""

import math

import pytest
import torch
from torch import Tensor

from sfumato.augment.pipeline import Chances, Pipeline, blits, colours, geometries
from sfumato.core.noise import TrainingNoise

FULL = Pipeline(filtering=True, noise=True, cutout=True)


def stream(count: int, step: int = 0) -> TrainingNoise:
    return TrainingNoise(0, step, global_batch=count)


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_at_probability_0_nothing_changes_and_at_1_everything(channels: int) -> None:
    x = images(8, channels, 12, 20)
    assert torch.equal(FULL(x, stream(8), 0.0), x)
    found = FULL(x, stream(8), 1.0)
    assert found.shape == x.shape
    assert (found != x).flatten(1).any(1).all()


def test_each_group_alone_changes_the_expected_share_of_images() -> None:
    p, count = 0.3, 4000
    off = dict.fromkeys(("blit", "geometric", "colour", "filtering", "noise", "cutout"), False)
    # What is drawn but neutral: 1 of 2 flips, 1 of 4 turns, 1 of 2 luma flips.
    expected = {
        "colour": 1 - (1 - p) ** 4 * (1 - p / 2),
        "geometric": 1 - (1 - p) ** 4,  # scaling, the two rotations as one, stretching, moving
        "filtering": 1 - (1 - p) ** 4,
        "noise": p,
        "cutout": p,
    }
    x = images(count, 3, 4, 4)
    for group, share in expected.items():
        found = Pipeline(**{**off, group: True})(x, stream(count), p)
        changed = (found != x).flatten(1).any(1).double().mean().item()
        assert abs(changed - share) < 4 * math.sqrt(share * (1 - share) / count), group


def test_what_is_drawn_does_not_depend_on_p() -> None:
    x = images(300, 3, 6, 6)
    blit = Pipeline(geometric=False, colour=False)
    some, more = (blit(x, stream(300), p) for p in (0.05, 0.1))
    changed = (some != x).flatten(1).any(1)
    same = (some == more).flatten(1).all(1)
    assert changed.sum() > 10
    assert same[changed].double().mean() > 0.7  # the others drew another change as well


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    x = images(16, 3, 9, 9)
    whole = FULL(x, stream(16), 0.5)
    part = slice(5, 12)
    alone = FULL(x[part], TrainingNoise(0, 0, global_batch=16, which=part), 0.5)
    torch.testing.assert_close(alone, whole[part], atol=1e-5, rtol=0)
    assert not torch.allclose(FULL(x, stream(16, step=1), 0.5), whole)


def test_it_computes_in_float32_under_autocast() -> None:
    x = images(8, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = FULL(x, stream(8), 1.0)
    assert torch.equal(found, FULL(x, stream(8), 1.0))


def test_gradients_reach_every_image_and_are_those_of_a_difference() -> None:
    x = images(6, 3, 8, 8).requires_grad_()
    weights = images(6, 3, 8, 8)
    step = 1e-2 * torch.sign(images(6, 3, 8, 8).roll(1, 0))
    values = [
        (weights * Pipeline(filtering=True)(x + s * step, stream(6), 1.0)).sum() for s in (-1, 1)
    ]
    (gradient,) = torch.autograd.grad(
        (weights * Pipeline(filtering=True)(x, stream(6), 1.0)).sum(), x
    )
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    expected = (values[1] - values[0]).item() / 2
    assert (gradient * step).sum().item() == pytest.approx(expected, rel=1e-3)  # linear


def test_parameters_have_the_stated_spread() -> None:
    count = 20_000
    chances = Chances(stream(count), 1.0)
    determinant = torch.linalg.det(geometries(chances, 64, 64)[:, :2, :2])
    assert determinant.log2().std().item() == pytest.approx(2 * 0.2, rel=0.03)  # scaling squared
    moved = geometries(chances, 64, 32)[:, :2, 2]
    assert moved.std(0).tolist() == pytest.approx([4.0, 8.0], rel=0.03)  # 1/8 of width, height
    white = colours(Chances(stream(count), 1.0))[:, :3, 3].sum(1) / 3
    # Brightness N(0, 0.2^2) times contrast 2^(N(0, 0.5^2)): the spread of a product.
    contrast = math.exp(2 * (0.5 * math.log(2)) ** 2)
    assert white.std().item() == pytest.approx(0.2 * math.sqrt(contrast), rel=0.05)


@pytest.mark.parametrize("p", [0.5, 0.8, 1.0])
def test_the_distribution_can_be_told_from_the_augmented_one_below_1(p: float) -> None:
    """Non-leaking: orientations are mixed by a matrix whose smallest singular value is 1 - p.

    Eight orientations of a square. Turns by an even draw of 4 mix with eigenvalue 1 - p, flips
    by an even draw of 2 likewise, both together with its square. It is invertible below p = 1,
    and at p = 1 information is lost: the generator could not know which way up images are.
    """
    count = 40_000
    turns = blits(Chances(stream(count), p), 64, 64)[:, :2, :2]
    orientations = torch.unique(turns.round(), dim=0)
    assert len(orientations) == 8
    share = torch.stack(
        [(turns.round() == o).flatten(1).all(1).double().mean() for o in orientations]
    )
    mixing = torch.zeros(8, 8, dtype=torch.float64)
    for start, before in enumerate(orientations):
        for k, turn in enumerate(orientations):
            after = (orientations == turn @ before).flatten(1).all(1)
            mixing[after, start] += share[k]
    smallest = torch.linalg.svdvals(mixing)[-1].item()
    assert smallest == pytest.approx((1 - p) ** 2, abs=0.02)


def test_a_pipeline_without_any_change_is_refused() -> None:
    with pytest.raises(ValueError, match="every group of changes is off"):
        Pipeline(blit=False, geometric=False, colour=False)
