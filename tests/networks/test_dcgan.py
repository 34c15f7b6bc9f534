"""DCGAN's pair: sizes, published counts, conditioning."""

import pytest
import torch

from sfumato.core.errors import ConfigError
from sfumato.networks.dcgan import DCGANConfig


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (4, 32, 48)])
def test_generator_and_discriminator_fit_the_image(shape: tuple[int, int, int]) -> None:
    generator, discriminator = DCGANConfig(channels=4).build(shape, 10)
    labels = torch.tensor([0, 9])
    images = generator(torch.randn(2, 100), labels)
    assert images.shape == (2, *shape)
    assert images.abs().max() < 1
    assert discriminator(images, labels).shape == (2,)


def test_the_64_pixel_pair_has_the_size_of_the_classic_one() -> None:
    """Radford et al. 2016, as in PyTorch's tutorial: 3,576,704 and 2,765,568 parameters.

    Ours has biases next to the image: 3 in the generator; 64 and 1 in the discriminator.
    """
    generator, discriminator = DCGANConfig().build((3, 64, 64), 0)
    assert sum(p.numel() for p in generator.parameters()) == 3_576_704 + 3
    assert sum(p.numel() for p in discriminator.parameters()) == 2_765_568 + 64 + 1


def test_the_class_reaches_both_networks() -> None:
    torch.manual_seed(0)
    generator, discriminator = DCGANConfig(channels=4).build((1, 8, 8), 3)
    generator.eval(), discriminator.eval()
    z, labels = torch.randn(1, 100).expand(3, -1), torch.arange(3)
    images = generator(z, labels)
    assert (images[0] - images[1]).abs().max() > 1e-4
    same = images[:1].expand(3, -1, -1, -1)
    assert discriminator(same, labels).unique().numel() == 3


def test_a_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ConfigError, match="7x8 cannot be halved"):
        DCGANConfig().build((1, 7, 8), 0)
