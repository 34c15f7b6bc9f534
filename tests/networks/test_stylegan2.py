"""StyleGAN2: published sizes, modulation, resampling, styles, truncation."""

import math

import pytest
import torch
from torch.nn import functional as F

from sfumato.core.errors import ConfigError
from sfumato.core.noise import Noise, TrainingNoise
from sfumato.networks import stylegan2_layers as layers
from sfumato.networks.stylegan2 import StyleGAN2Config, StyleGAN2Generator

SMALL = StyleGAN2Config(latent_dim=8, style_dim=8, mapping_layers=2, channel_base=64)


def small_generator(**changes: object) -> StyleGAN2Generator:
    torch.manual_seed(0)
    config = StyleGAN2Config(**{**{f: getattr(SMALL, f) for f in FIELDS}, **changes})
    return config.build((3, 16, 16), 0)[0]


FIELDS = ("latent_dim", "style_dim", "mapping_layers", "channel_base")


def sizes(module: torch.nn.Module) -> tuple[int, int]:
    parameters, buffers = module.parameters(), module.buffers()
    return sum(p.numel() for p in parameters), sum(b.numel() for b in buffers)


def test_the_64_pixel_pair_has_the_published_size() -> None:
    """z = w = 512, 2 mapping layers, channel base 16384, channel max 512, unconditional."""
    with torch.device("meta"):
        generator, discriminator = StyleGAN2Config(
            latent_dim=512, style_dim=512, mapping_layers=2, channel_base=16384, channel_max=512
        ).build((3, 64, 64), 0)
    assert sizes(generator) == (22_243_608, 11_632)
    assert sizes(discriminator) == (23_407_361, 288)


@pytest.mark.parametrize("up", [False, True])
def test_modulated_convolution_equals_one_with_each_images_own_weights(up: bool) -> None:
    """Karras et al. 2020, eqs. 1 and 3: w' = s w, w'' = w' / sqrt(sum w'^2)."""
    torch.manual_seed(0)
    conv = layers.ModulatedConv(4, 6, 3, 5)
    x, w = torch.randn(3, 4, 8, 8), torch.randn(3, 5)
    style = conv.style(w)
    found = conv(x, w, up)
    for i in range(3):
        weight = conv.weight * style[i][:, None, None]
        weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt()
        if up:
            expected = F.conv_transpose2d(x[i : i + 1], weight.transpose(0, 1), stride=2)
        else:
            expected = F.conv2d(x[i : i + 1], weight, padding=1)
        torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-5, atol=1e-5)


def test_without_demodulation_the_style_scales_the_weights() -> None:
    torch.manual_seed(0)
    conv = layers.ModulatedConv(4, 3, 1, 5, demodulate=False)
    x, w = torch.randn(2, 4, 8, 8), torch.randn(2, 5)
    style = conv.style(w)
    for i in range(2):
        expected = F.conv2d(x[i : i + 1], conv.weight / 2 * style[i][:, None, None])  # 2 = sqrt(4)
        torch.testing.assert_close(conv(x, w)[i : i + 1], expected)


def test_a_layer_keeps_the_size_of_its_input() -> None:
    """Demodulated output has unit variance, and so have the activations after leaky ReLU."""
    torch.manual_seed(0)
    layer = layers.StyledLayer(64, 64, 16, 16, up=False)
    x, w = torch.randn(8, 64, 16, 16), torch.randn(8, 16)
    assert layer(x, w, None).square().mean().item() == pytest.approx(1.04, abs=0.1)


def test_resampling_is_the_filter_1_3_3_1() -> None:
    """By hand on an impulse: doubled, it is the outer product of [1, 3, 3, 1] / 4."""
    kernel = layers.binomial_filter()
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    impulse = torch.zeros(1, 1, 4, 4)
    impulse[0, 0, 1, 1] = 1
    doubled = layers.double(impulse, kernel)
    assert doubled.shape == (1, 1, 8, 8)
    torch.testing.assert_close(doubled[0, 0, 1:5, 1:5], torch.outer(line, line))
    assert doubled.sum().item() == pytest.approx(4.0)
    halved = layers.blur(torch.ones(1, 2, 8, 8), kernel, padding=1, stride=2)
    torch.testing.assert_close(halved[:, :, 1:-1, 1:-1], torch.ones(1, 2, 2, 2))


@pytest.mark.parametrize("size", [(8, 8), (7, 12)], ids=str)
def test_resampling_by_matrices_is_that_by_convolutions(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, kernel = torch.randn(2, 3, *size), layers.binomial_filter()
    by_matrix = [layers.blur(x, kernel, p, stride=2) for p in (1, 2)] + [layers.double(x, kernel)]
    monkeypatch.setattr(layers, "_small_on_cpu", lambda x: False)
    expected = [layers.blur(x, kernel, p, stride=2) for p in (1, 2)] + [layers.double(x, kernel)]
    torch.testing.assert_close(by_matrix, expected)


def test_a_convolution_to_half_the_resolution_sees_constant_images_as_they_are() -> None:
    conv = layers.EqualizedConv(2, 3, 3, bias=False, down=True)
    x = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    out = conv(x)
    assert out.shape == (1, 3, 8, 8)
    expected = (conv.weight.sum((2, 3)) * conv.gain) @ torch.tensor([1.0, -2.0])
    torch.testing.assert_close(out[0, :, 4, 4], expected)


def test_equalized_weights_give_unit_variance_and_move_at_their_rate() -> None:
    torch.manual_seed(0)
    linear = layers.EqualizedLinear(256, 512, rate=0.01)
    out = linear(torch.randn(64, 256))
    assert out.std().item() == pytest.approx(1.0, abs=0.05)
    before = (linear.weight * linear.gain).detach()
    out.sum().backward()
    torch.optim.Adam(linear.parameters(), lr=0.1).step()  # moves every weight by the rate
    moved = (linear.weight * linear.gain - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1 * 0.01 / 16))


def test_the_minibatch_deviation_of_known_groups() -> None:
    """Groups of 2 of a batch of 4 are {0, 2} and {1, 3}; the deviation of {a, b} is |a - b| / 2."""
    x = torch.zeros(4, 1, 2, 2)
    x[2], x[3] = 6.0, 1.0
    found = layers.minibatch_deviation(x, 2)
    assert found.shape == (4, 2, 2, 2)
    assert found[:, 1, 0, 0].tolist() == pytest.approx([3.0, 0.5, 3.0, 0.5], abs=1e-3)


def test_mixing_takes_the_later_layers_from_another_w() -> None:
    generator = small_generator(style_mixing=1.0)
    z = torch.randn(64, 8)
    noise = TrainingNoise(0, global_batch=64)
    _, styles = generator.with_styles(z, None, noise)
    own = generator.map(z)
    same = (styles == own[:, None]).all(2)
    assert same[:, 0].all()
    assert not same[:, -1].any()
    cuts = same.sum(1)
    assert (same == (torch.arange(generator.num_layers) < cuts[:, None])).all()
    assert set(cuts.tolist()) == set(range(1, generator.num_layers))
    generator = small_generator(style_mixing=0.0)
    _, styles = generator.with_styles(z, None, TrainingNoise(0, global_batch=64))
    assert (styles == styles[:, :1]).all()


def test_truncation_moves_w_to_its_mean_in_the_first_layers() -> None:
    generator = small_generator(truncation=0.25, truncation_layers=2).eval()
    generator.average_w.copy_(torch.arange(8.0))
    w = torch.randn(3, 8)
    styles = generator.truncated(w)
    mean = torch.arange(8.0)
    torch.testing.assert_close(styles[:, 1], mean + 0.25 * (w - mean))
    torch.testing.assert_close(styles[:, 2], w)
    nothing = small_generator(truncation=0.0).eval()
    nothing.average_w.copy_(mean)
    images = nothing(torch.randn(2, 8))
    torch.testing.assert_close(images[0], images[1])


def test_the_mean_of_w_approaches_that_of_the_mapping() -> None:
    """A lerp by 0.005 a batch: after n batches 1 - 0.995^n of the way."""
    generator = small_generator(style_mixing=0.0)
    z = torch.randn(16, 8)
    for _ in range(100):
        generator(z)
    mean = generator.map(z).mean(0)
    torch.testing.assert_close(generator.average_w, (1 - 0.995**100) * mean)
    with torch.no_grad():
        generator(torch.randn(16, 8))  # for the discriminator: it does not count
    torch.testing.assert_close(generator.average_w, (1 - 0.995**100) * mean)


def test_noise_is_that_of_the_seed_or_of_the_layer() -> None:
    z = torch.randn(1, 8).expand(2, -1)
    generator = small_generator().eval()
    for block in generator.blocks:
        for layer in block.layers:
            layer.noise_strength.data.fill_(0.5)
    a, b = generator(z, None, Noise([1, 2]))
    assert (a - b).abs().max() > 0.01
    torch.testing.assert_close(generator(z[:1], None, Noise([2]))[0], b)
    fixed = small_generator(random_noise=False).eval()
    fixed.load_state_dict(generator.state_dict())
    a, b = fixed(z, None, Noise([1, 2]))
    torch.testing.assert_close(a, b)


def test_low_precision_begins_at_its_resolution_and_changes_little() -> None:
    generator = small_generator().eval()
    z = torch.randn(2, 8)
    exact, dtypes = generator(z), {}
    for block in generator.blocks:
        block.layers[-1].register_forward_hook(
            lambda module, inputs, output, at=block.resolution: dtypes.update({at: output.dtype})
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = generator(z)
    assert dtypes == {4: torch.float32, 8: torch.bfloat16, 16: torch.bfloat16}
    assert low.dtype == torch.float32
    assert (low - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 64), (1, 4, 4)])
def test_other_sizes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="no such size"):
        SMALL.build(shape, 0)


def test_leaky_relu_keeps_the_second_moment() -> None:
    """E[leaky(x)^2] = 2 (1 + 0.04) / 2 for a normal x."""
    torch.manual_seed(0)
    x = torch.randn(200_000)
    assert layers.leaky(x).square().mean().item() == pytest.approx(1.04, abs=0.02)
    assert layers.leaky(torch.tensor([1e4], dtype=torch.float16)).item() == 256
    assert layers.leaky(torch.tensor([1.0])).item() == pytest.approx(math.sqrt(2))
