"""Contracts of every pair of networks a GAN can be built from."""

from copy import deepcopy
from typing import get_args

import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm

from sfumato.core.generative_model import Blocks, recompute_activations
from sfumato.core.noise import Noise
from sfumato.networks import NetworkPair
from sfumato.networks.dcgan import DCGANConfig
from sfumato.networks.mlp_gan import MLPGANConfig
from sfumato.networks.resnet_gan import ResNetGANConfig
from sfumato.networks.stylegan2 import StyleGAN2Config

STYLE = StyleGAN2Config(latent_dim=16, style_dim=16, mapping_layers=2, channel_base=64)
PAIRS = {
    "dcgan": DCGANConfig(channels=4),
    "dcgan-projection": DCGANConfig(channels=4, conditioning="projection"),
    "dcgan-wide-spectral": DCGANConfig(channels=4, variant="wide", normalization="spectral"),
    "dcgan-layer": DCGANConfig(channels=4, normalization="layer"),
    "resnet": ResNetGANConfig(channels=4, discriminator_channels=4),
    "resnet-tiled-spectral": ResNetGANConfig(
        channels=4, discriminator_channels=4, conditioning="tiled", normalization="spectral"
    ),
    "stylegan2": STYLE,
    "stylegan2-tiled": StyleGAN2Config(
        latent_dim=16, style_dim=16, channel_base=64, conditioning="tiled", residual=False
    ),
    "mlp": MLPGANConfig(latent_dim=8, width=16),
    "mlp-tanh": MLPGANConfig(latent_dim=8, width=16, activation="tanh"),
}
pairs = pytest.mark.parametrize("config", PAIRS.values(), ids=PAIRS.keys())


def test_every_kind_is_tried() -> None:
    assert {type(config) for config in PAIRS.values()} == set(get_args(get_args(NetworkPair)[0]))


@pairs
@pytest.mark.parametrize("classes", [0, 3])
def test_the_pair_fits_the_image(config: NetworkPair, classes: int) -> None:
    generator, discriminator = config.build((3, 16, 16), classes)
    labels = torch.tensor([0, 2]) if classes else None
    images = generator(torch.randn(2, generator.latent_dim), labels, Noise([0, 1]))
    assert images.shape == (2, 3, 16, 16)
    assert discriminator(images, labels).shape == (2,)


@pairs
def test_the_class_reaches_both_networks(config: NetworkPair) -> None:
    torch.manual_seed(0)
    generator, discriminator = config.build((3, 16, 16), 3)
    generator.eval(), discriminator.eval()
    for network in (generator, discriminator):  # class-conditional scales begin equal
        for parameter in network.parameters():
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    z, labels = torch.randn(1, generator.latent_dim).expand(3, -1), torch.arange(3)
    images = generator(z, labels)
    assert (images[0] - images[1]).abs().max() > 1e-4
    same = images[:1].expand(3, -1, -1, -1)
    assert discriminator(same, labels).unique().numel() == 3


@pairs
def test_a_logit_depends_on_other_images_only_where_it_is_said(config: NetworkPair) -> None:
    """The minibatch deviation of StyleGAN2 apart, which is one channel of its last layer."""
    torch.manual_seed(0)
    discriminator = config.build((3, 16, 16), 0)[1].eval()
    x = torch.randn(8, 3, 16, 16)
    if config.kind == "stylegan2":
        discriminator.conv.weight.data[:, -1] = 0
    discriminator(x)
    discriminator.train(config.mixes_images)
    alone, together = discriminator(x[:4]), discriminator(x)[:4]
    assert torch.allclose(alone, together, atol=1e-5) != config.mixes_images


def test_spectral_normalization_bounds_every_layer() -> None:
    """The largest singular value of each weight is 1 after some power iterations."""
    torch.manual_seed(0)
    config = ResNetGANConfig(channels=4, discriminator_channels=8, normalization="spectral")
    discriminator = config.build((3, 8, 8), 4)[1]
    x, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 3])
    for _ in range(200):
        discriminator(x, labels)
    layers = [m for m in discriminator.modules() if hasattr(m, "parametrizations")]
    assert len(layers) == 2 * 3 + 1 + 2  # convolutions, one shortcut, head and embedding
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        assert largest.item() == pytest.approx(1.0, abs=0.02)


def test_the_residual_pair_has_the_size_of_gulrajanis() -> None:
    """Counted by hand from the tables of WGAN-GP's appendix F, for 32 x 32 pixels.

    Generator: 128 -> 2048, three blocks of two convolutions and a 1x1 shortcut with biases, seven
    batch normalizations, the last convolution. Discriminator: 1 of 3 and 7 of 128 channels in, two
    shortcuts, the head.
    """
    generator, discriminator = ResNetGANConfig().build((3, 32, 32), 0)
    conv, shortcut = 128 * 128 * 9 + 128, 128 * 128 + 128
    expected = (128 + 1) * 2048 + 3 * (2 * conv + shortcut) + 7 * 256 + 3 * 128 * 9 + 3
    assert sum(p.numel() for p in generator.parameters()) == expected == 1_204_483
    expected = (27 + 1) * 128 + 7 * conv + (3 + 1) * 128 + shortcut + 129
    assert sum(p.numel() for p in discriminator.parameters()) == expected == 1_053_825


@pytest.mark.parametrize(("size", "expected"), [(28, [8, 32]), (32, [8, 32, 32])])
def test_the_wide_variant_has_four_times_the_base_in_its_second_layer(
    size: int, expected: list[int]
) -> None:
    config = DCGANConfig(channels=8, variant="wide")
    generator, discriminator = config.build((3, size, size), 0)
    found = [m.out_channels for m in discriminator.modules() if isinstance(m, torch.nn.Conv2d)]
    assert found == [*expected, 1]
    transposed = torch.nn.ConvTranspose2d
    found = [m.out_channels for m in generator.modules() if isinstance(m, transposed)]
    assert found == [*reversed(expected), 3]


class Plain(torch.nn.Module):
    """A block that moves statistics of batches and vectors of spectral normalization."""

    def __init__(self) -> None:
        super().__init__()
        block = torch.nn.Sequential(
            spectral_norm(torch.nn.Conv2d(3, 3, 3, padding=1)), torch.nn.BatchNorm2d(3)
        )
        self.blocks = Blocks([block])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks.run(self.blocks[0], x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["spectral and batch", "resnet", "stylegan2"])
def test_recomputed_activations_change_neither_gradients_nor_states(kind: str) -> None:
    """Two batches, a gradient and that of a penalty on gradients."""
    torch.manual_seed(0)
    if kind in PAIRS:
        networks = list(PAIRS[kind].build((3, 16, 16), 0))
        inputs = [torch.randn(4, networks[0].latent_dim), torch.randn(4, 3, 16, 16)]
    else:
        networks, inputs = [Plain()], [torch.randn(4, 3, 16, 16)]

    def results(network: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
        first, second = network(x), network(2 * x)  # both before the gradients, as of a game
        (first.square().sum() + second.square().sum()).backward()
        y = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(network(y).square().sum(), y, create_graph=True)
        slope.square().sum().backward()
        found = [p.grad for p in network.parameters() if p.grad is not None]
        return found + list(network.state_dict().values())

    for network, x in zip(networks, inputs, strict=True):
        other = deepcopy(network)
        recompute_activations(other)
        expected, found = results(network, x), results(other, x)
        assert len(expected) == len(found)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
