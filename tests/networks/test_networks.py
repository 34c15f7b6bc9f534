"""What holds for every network: it learns, it uses time and class, it refuses with a reason."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from networks.tiny import KINDS, TINY, moved
from sfumato.core.errors import ConfigError
from sfumato.core.generative_model import blocks_of, recompute_activations
from sfumato.core.images import Shape

SHAPES = {"grey 28x28": (1, 28, 28), "colour 32x32": (3, 32, 32), "not square": (3, 16, 24)}

every_network = pytest.mark.parametrize("name", TINY)


def test_every_kind_is_tested() -> None:
    assert {config.kind for config in TINY.values()} == set(KINDS)


@every_network
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_it_trains(name: str, shape: tuple[int, int, int]) -> None:
    """It tells a pattern from its negative by the class, through the noise."""
    torch.manual_seed(0)
    network = TINY[name].build(shape, 2)
    pattern = torch.linspace(-1, 1, shape[2]).expand(shape)
    target = torch.stack([pattern, -pattern])
    noise_label, labels = torch.tensor([10.0, 500.0]), torch.tensor([0, 1])
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    while len(losses) < 60 and (not losses or losses[-1] > 0.5 * losses[0]):
        loss = F.mse_loss(network(target + torch.randn(2, *shape), noise_label, labels), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] <= 0.5 * losses[0]


@every_network
def test_time_and_class_reach_every_output_pixel(name: str) -> None:
    torch.manual_seed(0)
    network = moved(TINY[name].build((3, 16, 24), 3))
    x = torch.randn(1, 3, 16, 24)
    base = network(x, torch.tensor([5.0]), torch.tensor([1]))
    for noise_label, label in [(6.0, 1), (5.0, 2), (5.0, 3)]:
        other = network(x, torch.tensor([noise_label]), torch.tensor([label]))
        assert other.shape == (1, 3, 16, 24)
        assert ((other - base).abs() > 1e-5 * base.std()).float().mean() > 0.95


@every_network
def test_gradients_reach_time_label_and_all_parameters(name: str) -> None:
    """Once the zero-initialized layers have moved, nothing is cut off."""
    torch.manual_seed(0)
    network = moved(TINY[name].build((3, 16, 24), 3))
    noise_label = torch.tensor([5.0, 300.0], requires_grad=True)
    output = network(torch.randn(2, 3, 16, 24), noise_label, torch.tensor([0, 2]))
    (output * torch.randn(output.shape)).sum().backward()
    assert noise_label.grad is not None
    assert (noise_label.grad != 0).all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name
    assert any("embed_class" in name for name, _ in network.named_parameters())


@every_network
def test_no_label_is_the_null_class(name: str) -> None:
    torch.manual_seed(0)
    network = moved(TINY[name].build((1, 8, 8), 3))
    x, noise_label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 40.0])
    null = network(x, noise_label, torch.full((2,), 3))
    torch.testing.assert_close(network(x, noise_label, None), null)


@every_network
def test_images_of_a_batch_do_not_mix(name: str) -> None:
    torch.manual_seed(0)
    network = moved(TINY[name].build((1, 8, 8), 3))
    x, noise_label, labels = torch.randn(3, 1, 8, 8), torch.rand(3) * 100, torch.arange(3)
    alone = [network(x[i : i + 1], noise_label[i : i + 1], labels[i : i + 1]) for i in range(3)]
    together = network(x, noise_label, labels)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


@every_network
def test_recomputed_activations_give_equal_gradients(name: str) -> None:
    torch.manual_seed(0)
    network = moved(TINY[name].build((1, 8, 8), 2)).train()
    assert len(blocks_of(network)) >= 2
    inputs = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 40.0]), torch.tensor([0, 1])

    def gradients() -> list[torch.Tensor]:
        network.zero_grad()
        network(*inputs).square().sum().backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    expected = gradients()
    recompute_activations(network)
    for found, gradient in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, gradient, atol=0, rtol=0)


@every_network
def test_either_memory_format_gives_the_same_output(name: str) -> None:
    torch.manual_seed(0)
    network = moved(TINY[name].build((3, 8, 16), 0))
    x, noise_label = torch.randn(2, 3, 8, 16), torch.tensor([3.0, 40.0])
    expected = network(x, noise_label)
    network = network.to(memory_format=torch.channels_last)
    found = network(x.contiguous(memory_format=torch.channels_last), noise_label)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@every_network
def test_close_noise_levels_differ_under_bfloat16(name: str) -> None:
    """The time is embedded in float32: step 998 and step 999 are the same number in bfloat16."""
    torch.manual_seed(0)
    network = moved(TINY[name].build((1, 8, 8), 0))
    x = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        a, b = network(x, torch.tensor([998.0, 999.0])).float()
    assert (a - b).abs().max() > 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(list(TINY)),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40)),
)
def test_any_image_works_or_is_refused_with_the_arithmetic(name: str, shape: Any) -> None:
    torch.manual_seed(0)
    refusal = ""
    try:
        network = TINY[name].build(shape, 0)
    except ConfigError as error:
        refusal = str(error)
    if refusal:
        check_arithmetic(refusal, shape)
        TINY[name].build(advised(refusal, shape), 0)
    else:
        output = network(torch.randn(1, *shape), torch.tensor([3.0]))
        assert output.shape == (1, *shape)
        assert output.isfinite().all()


def check_arithmetic(refusal: str, shape: Shape) -> None:
    message = re.search(r"(height|width) (\d+) is not divisible by (?:.* = |patch )?(\d+)", refusal)
    assert message, refusal
    size = shape[1] if message[1] == "height" else shape[2]
    assert int(message[2]) == size
    assert size % int(message[3])


def advised(refusal: str, shape: Shape) -> Shape:
    """The shape after the padding that the message advises."""
    advice = re.search(r"data.fit=pad data.resolution=\[?(\d+)(?:,(\d+))?", refusal)
    assert advice, refusal
    height, width = int(advice[1]), int(advice[2] or advice[1])
    assert height >= shape[1]
    assert width >= shape[2]
    return shape[0], height, width
