"""The U-Net: conditioning, shapes, refusals."""

import pytest
import torch

from sfumato.core.errors import ConfigError
from sfumato.networks.unet import UNet, UNetConfig

SMALL = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,))


def moved(network: UNet) -> UNet:
    """The network after its zero-initialized layers have moved."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return network.eval()


def test_it_starts_as_the_zero_function() -> None:
    """The output layer is zero-initialized (Ho et al. 2020)."""
    network = SMALL.build((1, 8, 8), 10)
    assert network(torch.randn(2, 1, 8, 8), torch.zeros(2), None).abs().max() == 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (4, 16, 8)])
@pytest.mark.parametrize("patch", [1, 2])
def test_time_and_class_reach_every_output_pixel(shape: tuple[int, int, int], patch: int) -> None:
    torch.manual_seed(0)
    config = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(), patch=patch)
    network = moved(config.build(shape, 3))
    x = torch.randn(1, *shape)
    base = network(x, torch.tensor([5.0]), torch.tensor([1]))
    for noise_label, label in [(6.0, 1), (5.0, 2), (5.0, 3)]:
        other = network(x, torch.tensor([noise_label]), torch.tensor([label]))
        assert other.shape == (1, *shape)
        assert ((other - base).abs() > 1e-5).float().mean() > 0.95


def test_no_label_is_the_null_class() -> None:
    torch.manual_seed(0)
    network = moved(SMALL.build((1, 8, 8), 3))
    x, noise_label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 40.0])
    null = network(x, noise_label, torch.full((2,), 3))
    torch.testing.assert_close(network(x, noise_label, None), null)


def test_images_of_a_batch_do_not_mix() -> None:
    torch.manual_seed(0)
    network = moved(SMALL.build((1, 8, 8), 3))
    x, noise_label, labels = torch.randn(3, 1, 8, 8), torch.rand(3) * 100, torch.arange(3)
    alone = torch.cat(
        [network(x[i : i + 1], noise_label[i : i + 1], labels[i : i + 1]) for i in range(3)]
    )
    torch.testing.assert_close(network(x, noise_label, labels), alone, atol=1e-5, rtol=1e-4)


def test_a_size_that_does_not_divide_is_refused_with_the_arithmetic() -> None:
    config = UNetConfig(channels=8, multipliers=(1, 1, 1, 1), attention=())
    with pytest.raises(ConfigError, match=r"height 28 is not divisible by 8.*resolution=32"):
        config.build((1, 28, 28), 0)


def test_attention_at_a_height_that_does_not_occur_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"height 16, but the levels have heights \[8, 4\]"):
        UNetConfig(channels=8, multipliers=(1, 2), attention=(16,)).build((1, 8, 8), 0)


@pytest.mark.parametrize("change", [{"channels": 0}, {"heads": 3}, {"dropout": 1.0}, {"blocks": 0}])
def test_impossible_values_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        UNetConfig(**change)
