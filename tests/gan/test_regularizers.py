"""Penalties on gradients against closed forms."""

import pytest
import torch
from torch import Tensor, nn

from sfumato.core.images import Batch
from sfumato.core.noise import RandomStream, TrainingNoise
from sfumato.gan.gan_model import GAN, GANConfig
from sfumato.gan.losses import WassersteinLoss
from sfumato.gan.regularizers import (
    R1,
    R2,
    DiscriminatorBatch,
    GradientPenalty,
    PathLength,
    path_lengths,
)
from sfumato.networks.mlp_gan import MLPGANConfig
from sfumato.networks.stylegan2 import StyleGAN2Config

SHAPE = (2, 3, 3)


def discriminator_batch(critic: nn.Module, size: int = 4) -> DiscriminatorBatch:
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(size, *SHAPE, generator=generator) for _ in range(2))
    return DiscriminatorBatch(
        real.requires_grad_(True),
        lambda: fake.requires_grad_(True),
        lambda x: critic(x.flatten(1)).flatten(),
    )


def noise(size: int = 4) -> RandomStream:
    return TrainingNoise("test", global_batch=size)


class Quadratic(nn.Module):
    """D(x) = x^T A x / 2, whose gradient is A x."""

    def __init__(self) -> None:
        super().__init__()
        a = torch.randn(18, 18, generator=torch.Generator().manual_seed(1))
        self.a = nn.Parameter(a + a.T)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.a * x).sum(1) / 2


def test_the_gradient_penalty_of_a_linear_critic_is_that_of_its_slope() -> None:
    """D(x) = w x + b has the gradient w everywhere: weight (|w| - 1)^2, derivative by w too."""
    critic = nn.Linear(18, 1)
    w = critic.weight.detach().flatten()
    penalty = GradientPenalty(weight=7.0).penalty(discriminator_batch(critic), noise())
    assert penalty.tolist() == pytest.approx([7 * (w.norm().item() - 1) ** 2] * 4, rel=1e-5)
    penalty.mean().backward()
    expected = 14 * (w.norm() - 1) * w / w.norm()
    torch.testing.assert_close(critic.weight.grad.flatten(), expected)
    assert critic.bias.grad is None or critic.bias.grad.abs().max() == 0


def test_the_gradient_penalty_looks_between_the_images() -> None:
    """The gradient of |x|^2 / 2 is x: the points themselves are seen."""
    between = []

    class Seen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            between.append(x.detach())
            return x.square().sum(1) / 2

    looked_at = discriminator_batch(Seen())
    penalty = GradientPenalty(weight=1.0).penalty(looked_at, noise())
    (x,) = between
    expected = (x.norm(dim=1) - 1).square()
    torch.testing.assert_close(penalty.detach(), expected)
    real, fake = looked_at.real.detach().flatten(1), looked_at.fake.detach().flatten(1)
    share = (x - real)[:, :1] / (fake - real)[:, :1]
    torch.testing.assert_close(x, real + share * (fake - real), rtol=1e-4, atol=1e-5)
    assert ((share > 0) & (share < 1)).all()
    assert share.unique().numel() == 4


def test_r1_and_r2_of_a_quadratic_critic_in_closed_form() -> None:
    """weight / 2 |A x|^2 at real and at generated images, and its derivative by a symmetric A."""
    critic = Quadratic()
    looked_at = discriminator_batch(critic)
    for regularizer, images in ((R1(weight=3.0), looked_at.real), (R2(weight=3.0), looked_at.fake)):
        critic.a.grad = None
        x = images.detach().flatten(1)
        penalty = regularizer.penalty(looked_at, noise())
        torch.testing.assert_close(penalty.detach(), 1.5 * (x @ critic.a).square().sum(1).detach())
        penalty.sum().backward(inputs=[critic.a], retain_graph=True)
        half = 1.5 * x.T @ (x @ critic.a.detach())
        torch.testing.assert_close(critic.a.grad, half + half.T, rtol=1e-4, atol=1e-3)


def test_path_lengths_of_a_linear_generator() -> None:
    """images = A w in each of L layers: J^T y = A^T y, so the mean square of |J^T y| over y is
    |A|^2 / (H W), with the layers' squares averaged."""
    torch.manual_seed(0)
    a = torch.randn(3, 18, 5)  # layers, pixels, w
    styles = torch.randn(20_000, 3, 5, requires_grad=True)
    images = torch.einsum("lpw,blw->bp", a, styles).view(-1, *SHAPE)
    lengths = path_lengths(images, styles, noise(20_000))
    y = noise(20_000).normal(*SHAPE).flatten(1) / 3
    expected = torch.einsum("lpw,bp->blw", a, y).square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(lengths.detach(), expected, rtol=1e-4, atol=1e-4)
    mean_square = a.square().sum().item() / 3 / 9
    assert lengths.square().mean().item() == pytest.approx(mean_square, rel=0.03)


def test_the_path_length_penalty_pulls_lengths_to_their_mean() -> None:
    penalty = PathLength(weight=2.0).penalty(torch.tensor([1.0, 4.0]), torch.tensor(3.0))
    assert penalty.tolist() == [8.0, 2.0]


STYLE = StyleGAN2Config(latent_dim=8, style_dim=8, mapping_layers=1, channel_base=64)


def styled(share: int = 2) -> GAN:
    torch.manual_seed(0)
    path = PathLength(every=2, decay=0.25, batch_share=share)
    return GANConfig(network=STYLE, regularizers=(R1(every=4), path)).build((1, 8, 8), 0)


def test_the_mean_path_length_is_a_running_mean_and_part_of_the_state() -> None:
    gan, batch = styled(share=1), Batch(torch.zeros(4, 1, 8, 8))
    phase = next(phase for phase in gan.phases() if phase.name == "path_length")
    assert (phase.module, phase.every, phase.lazy) == (gan.generator, 2, True)
    mean = 0.0
    for step in range(3):
        streams = TrainingNoise(step, global_batch=4)
        z = streams.normal(8)
        images, styles = gan.generator.with_styles(z, None, streams)
        lengths = path_lengths(images, styles, streams).detach()
        mean += 0.25 * (lengths.mean().item() - mean)
        losses = phase.loss(batch, TrainingNoise(step, global_batch=4))
        torch.testing.assert_close(losses.detach(), 2 * (lengths - mean).square())
        assert gan.state_dict()["path_length_mean"].item() == pytest.approx(mean, rel=1e-5)


def test_a_part_of_the_batch_stands_for_all_of_it() -> None:
    gan, batch = styled(share=2), Batch(torch.zeros(6, 1, 8, 8))
    losses = gan.path_length_loss(gan.config.regularizers[1], batch, noise(6))
    assert losses.shape == (6,)
    torch.testing.assert_close(losses[:3], losses[3:])


def test_a_penalty_of_every_step_is_in_the_loss_and_a_rare_one_a_phase_of_its_own() -> None:
    """R1 computed by itself plus the plain loss is the loss that contains it."""
    network = MLPGANConfig(latent_dim=4, width=8)
    batch, names = Batch(torch.randn(4, *SHAPE)), {}
    for every in (1, 16):
        torch.manual_seed(0)
        gan = GANConfig(network=network, regularizers=(R1(every=every),)).build(SHAPE, 0)
        names[every] = [(p.name, p.every, p.double_backward) for p in gan.phases()]
        loss = gan.discriminator_loss(batch, noise()).detach()
        names[every].append(loss)
        penalty = gan.penalty(gan.penalties[0], batch, noise()).detach()
        names[every].append(penalty)
    assert names[1][:2] == [("discriminator", 1, True), ("generator", 1, False)]
    assert names[16][:3] == [
        ("discriminator", 1, False),
        ("r1", 16, True),
        ("generator", 1, False),
    ]
    torch.testing.assert_close(names[1][-2], names[16][-2] + names[16][-1])


def test_input_noise_falls_linearly_to_nothing() -> None:
    config = GANConfig(
        network=MLPGANConfig(latent_dim=4, width=8), input_noise=0.8, input_noise_images=1000
    )
    gan = config.build((1, 8, 8), 0)
    x = torch.zeros(500, 1, 8, 8)
    for seen, expected in ((0, 0.8), (500, 0.4), (1000, 0.0), (5000, 0.0)):
        noisy = gan._before_discriminator(x, Batch(x, None, seen), noise(500))
        assert noisy.std().item() == pytest.approx(expected, rel=0.03)


def test_clipping_bounds_every_weight_after_the_step() -> None:
    config = GANConfig(
        network=MLPGANConfig(latent_dim=4, width=8),
        loss=WassersteinLoss(clip=0.01),
        discriminator_steps=5,
    )
    gan = config.build(SHAPE, 0)
    critic, generator = gan.phases()
    assert (critic.every, generator.every, generator.lazy) == (1, 5, False)
    before = [p.detach().clone() for p in gan.discriminator.parameters()]
    critic.after()
    for old, new in zip(before, gan.discriminator.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old.clamp(-0.01, 0.01))
    largest = max(p.abs().max().item() for p in gan.discriminator.parameters())
    assert largest == pytest.approx(0.01)
