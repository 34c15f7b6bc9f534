"""GAN losses against hand-derived values and gradients."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd.functional import jacobian

from sfumato.gan.losses import (
    HingeLoss,
    LeastSquaresLoss,
    MinimaxLoss,
    NonSaturatingLoss,
    RelativisticLoss,
    WassersteinLoss,
)

Slope = Callable[[float, float], float]


def s(logit: float) -> float:
    """The logistic function."""
    return 1 / (1 + math.exp(-logit))


def test_the_discriminator_loss_is_the_cross_entropy() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    loss = NonSaturatingLoss(real_target=0.9, fake_target=0.1).discriminator(real, fake)
    for i in range(2):
        p, q = torch.sigmoid(real[i]).item(), torch.sigmoid(fake[i]).item()
        expected = -0.9 * math.log(p) - 0.1 * math.log(1 - p)
        expected -= 0.1 * math.log(q) + 0.9 * math.log(1 - q)
        assert loss[i].item() == pytest.approx(expected, rel=1e-5)


def test_smoothing_moves_the_best_logit_to_log_odds_of_the_target() -> None:
    loss = NonSaturatingLoss(real_target=0.9)
    best = torch.tensor([math.log(9.0)], dtype=torch.float64)
    gradient = jacobian(lambda r: loss.discriminator(r, torch.zeros_like(r)).sum(), best)
    assert gradient.item() == pytest.approx(0, abs=1e-12)


def test_the_generator_gradient_does_not_saturate() -> None:
    """d/dl [-log sigmoid(l)] = -sigmoid(-l): near -1 for a fake the discriminator rejects."""
    logits = torch.tensor([-10.0, 0.0])
    gradient = jacobian(lambda x: NonSaturatingLoss().generator(x, None).sum(), logits)
    assert gradient.tolist() == pytest.approx([-1.0, -0.5], abs=1e-4)


@pytest.mark.parametrize("targets", [(0.1, 0.9), (1.1, 0.0), (0.5, 0.5)])
def test_targets_out_of_order_are_refused(targets: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="real_target"):
        NonSaturatingLoss(real_target=targets[0], fake_target=targets[1])


L = torch.tensor([1.5, -0.5], dtype=torch.float64)
M = torch.tensor([-2.0, 0.25], dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "real_slope", "fake_slope", "generator_slope"),
    [
        # d/dl of softplus(l) - y l is sigmoid(l) - y.
        (MinimaxLoss(), lambda r, f: s(r) - 1, lambda r, f: s(f), lambda r, f: -s(f)),
        (
            NonSaturatingLoss(real_target=0.9, fake_target=0.1),
            lambda r, f: s(r) - 0.9,
            lambda r, f: s(f) - 0.1,
            lambda r, f: s(f) - 1,
        ),
        (
            LeastSquaresLoss(real_target=0.9),
            lambda r, f: r - 0.9,
            lambda r, f: f,
            lambda r, f: f - 1,
        ),
        # A margin of 1: no gradient beyond it.
        (HingeLoss(), lambda r, f: -1.0 * (r < 1), lambda r, f: 1.0 * (f > -1), lambda r, f: -1.0),
        (WassersteinLoss(), lambda r, f: -1.0, lambda r, f: 1.0, lambda r, f: -1.0),
        (
            RelativisticLoss(),
            lambda r, f: -s(f - r),
            lambda r, f: s(f - r),
            lambda r, f: -s(r - f),
        ),
    ],
    ids=lambda x: getattr(x, "kind", ""),
)
def test_gradients_by_hand(
    loss: Any, real_slope: Slope, fake_slope: Slope, generator_slope: Slope
) -> None:
    for real, fake in ((L, M), (M, L)):
        by_real, by_fake = jacobian(lambda r, f: loss.discriminator(r, f).sum(), (real, fake))
        by_generator = jacobian(lambda f: loss.generator(f, real).sum(), fake)  # noqa: B023
        for i in range(2):
            r, f = real[i].item(), fake[i].item()
            assert by_real[i].item() == pytest.approx(real_slope(r, f))
            assert by_fake[i].item() == pytest.approx(fake_slope(r, f))
            assert by_generator[i].item() == pytest.approx(generator_slope(r, f))


def test_values_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert HingeLoss().discriminator(real, fake).tolist() == [0.0, 3.0]
    assert WassersteinLoss().discriminator(real, fake).tolist() == [-5.0, 1.0]
    assert LeastSquaresLoss().discriminator(real, fake).tolist() == [5.0, 1.0]
    assert LeastSquaresLoss().generator(fake, None).tolist() == [8.0, 0.0]
    assert MinimaxLoss().generator(torch.zeros(1), None).item() == pytest.approx(-math.log(2))
    found = RelativisticLoss().discriminator(real, fake)
    assert found.tolist() == pytest.approx([math.log1p(math.exp(-5)), math.log1p(math.e)])


def test_the_minimax_game_is_of_zero_sum() -> None:
    """The generator's gradient is minus the discriminator's, by the same logit."""
    loss, zeros = MinimaxLoss(), torch.zeros_like(M)
    by_discriminator = jacobian(lambda f: loss.discriminator(zeros, f).sum(), M)
    torch.testing.assert_close(
        jacobian(lambda f: loss.generator(f, None).sum(), M), -by_discriminator
    )
