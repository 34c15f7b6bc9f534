"""The unrolled GAN against explicit differentiation."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.core.images import Batch
from sfumato.core.noise import TrainingNoise
from sfumato.gan.gan_model import GAN, GANConfig
from sfumato.gan.losses import GANLoss, MinimaxLoss, NonSaturatingLoss
from sfumato.gan.unrolled import Unrolling, judged_by
from sfumato.networks.dcgan import DCGANConfig
from sfumato.networks.mlp_gan import MLPGANConfig


class Scalar(nn.Module):
    """D(x) = d x."""

    def __init__(self, d: float) -> None:
        super().__init__()
        self.d = nn.Parameter(torch.tensor(d, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.d * x


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_gradient_goes_through_the_steps_of_a_scalar_game(steps: int) -> None:
    """Loss of D: d g + d^2 / 2, so a step is d <- d - r (g + d): d_k = q^k d - (1 - q^k) g with
    q = 1 - r. The generator minimizes -d_k g: its gradient is -d_k + (1 - q^k) g, and -d_k alone
    if the steps are held fixed."""
    d, g, rate = 0.7, torch.tensor(1.3, dtype=torch.float64, requires_grad=True), 0.2
    module = Scalar(d)
    state = Unrolling(steps=steps, learning_rate=rate, betas=None).ahead(
        module, lambda s: judged_by(module, s, g) + s["d"].square() / 2
    )
    power = (1 - rate) ** steps
    ahead = power * d - (1 - power) * g.item()
    assert state["d"].item() == pytest.approx(ahead)
    (gradient,) = torch.autograd.grad(-judged_by(module, state, g), g)
    assert gradient.item() == pytest.approx(-ahead + (1 - power) * g.item())
    assert module.d.item() == d
    assert module.d.grad is None


def test_the_discriminator_itself_is_untouched_its_statistics_included() -> None:
    torch.manual_seed(0)
    config = GANConfig(network=DCGANConfig(channels=4, latent_dim=4), unrolled=Unrolling(steps=2))
    gan = config.build((1, 8, 8), 0)
    gan.requires_grad_(False)
    gan.generator.requires_grad_(True)
    before = {name: t.clone() for name, t in gan.discriminator.state_dict().items()}
    batch = Batch(torch.rand(4, 1, 8, 8) * 2 - 1)
    gan.generator_loss(batch, TrainingNoise(0, global_batch=4)).mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in gan.generator.parameters())
    assert all(p.grad is None for p in gan.discriminator.parameters())
    after = gan.discriminator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def played(loss: GANLoss, betas: tuple[float, float] | None) -> tuple[GAN, Batch, dict[str, Any]]:
    """A GAN in float64 that looks three steps ahead after some training, a batch, and the state of
    an Adam without momentum that trained the discriminator."""
    torch.manual_seed(0)
    config = GANConfig(
        network=MLPGANConfig(latent_dim=3, width=6),
        loss=loss,
        unrolled=Unrolling(steps=3, learning_rate=0.5 if betas is None else 0.02, betas=betas),
    )
    gan = config.build((2, 1, 1), 0).double()
    optimizer = optimizer_of(gan.discriminator, gan)
    for step in range(4):
        optimizer.zero_grad()
        batch = Batch(torch.randn(8, 2, 1, 1).double())
        gan.discriminator_loss(batch, TrainingNoise(step, global_batch=8)).mean().backward()
        optimizer.step()
        gan.phases()[0].after()
    return gan, Batch(torch.randn(8, 2, 1, 1).double()), optimizer.state_dict()


def optimizer_of(discriminator: nn.Module, gan: GAN) -> torch.optim.Optimizer:
    """What the unrolled steps are steps of."""
    unrolled = gan.config.unrolled
    assert unrolled is not None
    if unrolled.betas is None:
        return torch.optim.SGD(discriminator.parameters(), lr=unrolled.learning_rate)
    return torch.optim.Adam(
        discriminator.parameters(), lr=unrolled.learning_rate, betas=unrolled.betas
    )


def by_hand(gan: GAN, batch: Batch, state: dict[str, Any]) -> Tensor:
    """Three steps of the optimizer on a copy, and what the generator minimizes against it."""
    discriminator = deepcopy(gan.discriminator).requires_grad_(True)
    z = TrainingNoise(0, global_batch=8).normal(3).double()
    fake = gan.generator(z).detach()
    optimizer = optimizer_of(discriminator, gan)
    optimizer.load_state_dict(deepcopy(state))
    for _ in range(3):
        optimizer.zero_grad()
        logits = discriminator(batch.images), discriminator(fake)
        gan.loss.discriminator(*logits).mean().backward()
        optimizer.step()
    if gan.loss.kind == "minimax":  # the zero-sum game: log D(x) + log(1 - D(G(z)))
        logsigmoid = torch.nn.functional.logsigmoid
        return (logsigmoid(discriminator(batch.images)) + logsigmoid(-discriminator(fake))).detach()
    return gan.loss.generator(discriminator(fake), None).detach()


@pytest.mark.parametrize("betas", [None, (0.5, 0.9)], ids=["descent", "adam"])
@pytest.mark.parametrize(
    "loss", [NonSaturatingLoss(), MinimaxLoss()], ids=["non-saturating", "minimax"]
)
def test_the_loss_and_its_gradient_are_those_of_a_discriminator_trained_by_hand(
    loss: GANLoss, betas: tuple[float, float] | None
) -> None:
    """By torch's optimizers; the gradient is that of finite differences of the whole."""
    gan, batch, state = played(loss, betas)
    found = gan.generator_loss(batch, TrainingNoise(0, global_batch=8))
    expected = by_hand(gan, batch, state)
    torch.testing.assert_close(found.detach().double(), expected, rtol=1e-5, atol=1e-6)
    found.mean().backward()
    weight, step, place = gan.generator.layers[0].weight, 1e-3, (1, 2)
    values = []
    for shift in (step, -step):
        weight.data[place] += shift
        values.append(by_hand(gan, batch, state).mean())
        weight.data[place] -= shift
    slope = (values[0] - values[1]) / (2 * step)
    assert abs(slope) > 1e-4
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[place], slope, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"steps": 0}, "'steps' is 0; it should be at least 1"),
        ({"learning_rate": 0.0}, "'learning_rate' is 0.0; it should be above 0"),
        ({"betas": (0.5, 1.0)}, r"'betas.1' is 1.0; it should be below 1"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Unrolling(**values)
