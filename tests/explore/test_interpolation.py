"""Walks, grids and truncation in z and in w: ends and corners are known samples."""

import math

import pytest
import torch

from sfumato.core.errors import ConfigError, RunError
from sfumato.core.noise import Noise
from sfumato.explore.interpolation import (
    BlendedNoise,
    Walk,
    interpolate,
    interpolate_noises,
    smoothness,
    truncation_sweep,
)
from sfumato.gan.gan_model import GAN, GANConfig
from sfumato.networks.dcgan import DCGANConfig
from sfumato.networks.stylegan2 import StyleGAN2Config

NETWORK = StyleGAN2Config(
    latent_dim=8, style_dim=8, mapping_layers=2, channel_base=64, channel_max=8
)


def model(num_classes: int = 0, network: StyleGAN2Config = NETWORK) -> GAN:
    torch.manual_seed(0)
    gan = GANConfig(network=network).build((1, 8, 8), num_classes).eval()
    for name, parameter in gan.generator.named_parameters():
        if "noise_strength" in name:  # so that the noise of the layers counts
            torch.nn.init.constant_(parameter, 0.3)
    torch.nn.init.normal_(gan.generator.average_w)
    return gan


def sample(gan: GAN, seed: int, label: int | None = None) -> torch.Tensor:
    return gan.sample(None if label is None else torch.tensor([label]), Noise([seed]))


@pytest.mark.parametrize("space", ["z", "w"])
@pytest.mark.parametrize("path", ["linear", "spherical"])
@pytest.mark.parametrize("label", [None, 2])
def test_ends_and_corners_are_the_samples_of_their_seeds(
    space: str, path: str, label: int | None
) -> None:
    gan = model(3 if label is not None else 0)
    walk = interpolate_noises(gan, (4, 9), Walk(5, path, space), label)
    grid = interpolate_noises(gan, (4, 9, 1, 7), Walk(3, path, space), label)
    assert (len(walk), len(grid)) == (5, 9)
    found = torch.stack([walk[0], walk[-1], grid[0], grid[2], grid[6], grid[8]])
    expected = torch.cat([sample(gan, seed, label) for seed in (4, 9, 4, 9, 1, 7)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (walk[2] - walk[0]).abs().max() > 0.01


def test_the_middle_of_a_line_in_w_is_the_mean_of_the_two_w() -> None:
    gan = model(network=StyleGAN2Config(**{**vars(NETWORK), "random_noise": False}))
    middle = interpolate_noises(gan, (4, 9), Walk(3, "linear", "w"))[1:2]
    w = gan.generator.map(torch.cat([Noise([seed]).normal(8) for seed in (4, 9)]))
    expected = gan.generator.draw(w.mean(0, keepdim=True)[:, None].expand(-1, 4, -1).clone())
    torch.testing.assert_close(middle, expected.clamp(-1, 1), atol=1e-5, rtol=0)
    in_z = interpolate_noises(gan, (4, 9), Walk(3, "linear", "z"))[1:2]
    assert (in_z - middle).abs().max() > 1e-3


def test_blended_noise_of_four_keeps_its_variance_on_spherical_paths() -> None:
    draws = BlendedNoise((0, 1, 2, 3), 3, "spherical").normal(100, 100).flatten(1)
    torch.testing.assert_close(draws.std(1), torch.ones(9), rtol=0.03, atol=0)
    centre = BlendedNoise((0, 1, 2, 3), 3, "linear").normal(100, 100).flatten(1)[4]
    assert centre.std().item() == pytest.approx(math.sqrt(1 / 4), rel=0.03)


def test_truncation_goes_from_the_mean_image_to_the_samples() -> None:
    gan = model(network=StyleGAN2Config(**{**vars(NETWORK), "random_noise": False}))
    mean, half, full = truncation_sweep(gan, range(6), [0.0, 0.5, 1.0])
    torch.testing.assert_close(full, gan.sample(None, Noise(range(6))), atol=1e-5, rtol=0)
    torch.testing.assert_close(mean, mean[:1].expand(6, -1, -1, -1), atol=1e-6, rtol=0)
    half_truncated = model(
        network=StyleGAN2Config(**{**vars(NETWORK), "random_noise": False, "truncation": 0.5})
    )
    half_truncated.load_state_dict(gan.state_dict())
    expected = half_truncated.sample(None, Noise(range(6)))
    torch.testing.assert_close(half, expected, atol=1e-5, rtol=0)


def test_w_of_a_model_that_has_none_is_refused() -> None:
    gan = GANConfig(network=DCGANConfig(channels=4, latent_dim=8)).build((1, 8, 8), 0).eval()
    with pytest.raises(RunError, match="w is StyleGAN2's, and this model is of kind 'dcgan'"):
        interpolate_noises(gan, (0, 1), Walk(3, space="w"))
    with pytest.raises(RunError, match="use --space z"):
        truncation_sweep(gan, [0], [1.0])


def test_spherical_interpolation_keeps_the_norm_and_moves_evenly() -> None:
    a, b = Noise([1, 2]).normal(3, 16, 16).double()
    b = b * a.norm() / b.norm()
    path = interpolate(a, b, 9)
    torch.testing.assert_close(path.flatten(1).norm(dim=1), a.norm().expand(9))
    steps = path.diff(dim=0).flatten(1).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(8))
    torch.testing.assert_close(path[0], a)
    torch.testing.assert_close(path[-1], b)


def test_linear_interpolation_and_its_smoothness() -> None:
    path = interpolate(torch.zeros(2), torch.tensor([3.0, 4.0]), 6, "linear")
    found = smoothness(path)
    assert found == pytest.approx((1.0, 1.0))
    detour = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    assert smoothness(detour) == pytest.approx((3.5, 7 / 5))
    with pytest.raises(ConfigError, match="at least 2 points, got 1"):
        interpolate(torch.zeros(2), torch.ones(2), 1)


def test_parallel_noises_are_interpolated_without_dividing_by_zero() -> None:
    a = torch.ones(4)
    torch.testing.assert_close(interpolate(a, 2 * a, 3)[1], 1.5 * a)
