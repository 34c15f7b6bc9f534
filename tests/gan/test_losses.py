"""GAN losses against hand-derived values and gradients."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian

from sfumato.gan.losses import NonSaturatingLoss


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
