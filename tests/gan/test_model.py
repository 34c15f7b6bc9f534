"""The GAN as a generative model."""

import torch

from sfumato.core.generative_model import GenerativeModel
from sfumato.core.images import Batch
from sfumato.core.noise import Noise, TrainingNoise
from sfumato.gan.gan_model import GAN, GANConfig
from sfumato.networks.dcgan import DCGANConfig


def small(input_noise: float = 0.0) -> GAN:
    torch.manual_seed(0)
    config = GANConfig(network=DCGANConfig(channels=8, latent_dim=16), input_noise=input_noise)
    return config.build((1, 8, 8), 3)


def test_it_is_a_generative_model_of_two_phases() -> None:
    gan = small()
    assert isinstance(gan, GenerativeModel)
    assert [phase.name for phase in gan.phases()] == ["discriminator", "generator"]


def test_the_discriminator_phase_leaves_the_generator_without_gradient() -> None:
    gan = small()
    batch = Batch(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))
    gan.discriminator_loss(batch, TrainingNoise(0, global_batch=4)).sum().backward()
    assert all(p.grad is None for p in gan.generator.parameters())
    assert all(p.grad is not None for p in gan.discriminator.parameters())


def test_a_sample_depends_on_its_own_seed_and_label() -> None:
    gan = small().eval()
    many = gan.sample(torch.tensor([0, 1, 2]), Noise([7, 8, 9]))
    one = gan.sample(torch.tensor([1]), Noise([8]))
    torch.testing.assert_close(many[1:2], one)


def test_input_noise_has_the_stated_standard_deviation() -> None:
    """Seen by a discriminator that only adds up the pixels."""
    gan = small(input_noise=0.5)

    class PixelSum(torch.nn.Module):
        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return x.sum(dim=(1, 2, 3))

    gan.discriminator = PixelSum()
    x, labels = torch.zeros(4000, 1, 8, 8), torch.zeros(4000, dtype=torch.int64)
    sums = gan.judge(x, Batch(x, labels), TrainingNoise(0, global_batch=4000))
    assert abs(sums.std().item() / (0.5 * 8) - 1) < 4 / (2 * 4000) ** 0.5
