"""`sfumato info`: operations and memory against counts by hand."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sfumato.core.config import merge
from sfumato.explore.describe import Description, describe_model, flop_counter
from sfumato.networks.dit import DiTConfig
from sfumato.speed.memory import LiveMemory
from support.experiments import DIFFUSION, GAN, experiment


def described(base: dict[str, Any], depth: int = 3, **network: Any) -> Description:
    """The description of a tiny experiment on the 8x8 digits with another network."""
    mapping = merge(base, {"model": {"network": network}}) if network else base
    return describe_model(experiment(mapping), depth)


CONV = {"kind": "conv_net", "channels": 4, "multipliers": [1, 2]}
DIT = {"kind": "dit", "channels": 8, "blocks": 1, "heads": 2, "patch": 2}


def test_the_operations_of_a_convolutional_net() -> None:
    """A multiply-add counts as two."""
    embedding = 16
    time = 2 * (32 * embedding + embedding**2)
    projections = 2 * embedding * (4 + 8 + 8 + 4)
    stem = 2 * 9 * 1 * 4 * 64
    down = up = 2 * 16 * 4 * 8 * 16
    middle = 2 * 9 * 8 * 8 * 16
    head = 2 * 9 * 4 * 1 * 64
    found = described(DIFFUSION, **CONV)
    assert found.evaluation_flops == time + projections + stem + down + middle + up + head
    by_name = {row.module: row for row in found.rows}
    assert by_name["denoiser.network.head"].flops == head
    assert by_name["denoiser.network.head"].output == "1x8x8"
    assert by_name["(total)"].parameters == by_name["denoiser.network"].parameters
    # backward: gradients of weights and inputs, but for the inputs of the network
    no_input_gradient = stem + 2 * 32 * embedding
    assert found.training_flops == 3 * found.evaluation_flops - no_input_gradient


def test_attention_is_counted() -> None:
    """Scores and values: 2 x 2 N^2 C, beside the linear layers."""
    N, C = 16, 8
    found = described(DIFFUSION, depth=4, **DIT)
    (block,) = (row for row in found.rows if row.module == "denoiser.network.blocks.0")
    linear = 2 * N * (3 * C * C + C * C + 8 * C * C) + 2 * 6 * C * C
    assert block.flops == linear + 4 * N * N * C


def test_the_operations_of_dit_as_published() -> None:
    """Peebles & Xie 2023, table 1: S/2 has 6.06 G multiply-adds on 4x32x32 latents."""
    with torch.device("meta"):
        network = DiTConfig().build((4, 32, 32), 1000, 8)
        inputs = torch.randn(1, 4, 32, 32), torch.rand(1), torch.zeros(1, dtype=torch.int64)
        with flop_counter() as counter:
            network(*inputs)
    assert counter.get_total_flops() / 2e9 == pytest.approx(6.06, abs=0.01)


def test_the_dtype_is_that_of_the_precision() -> None:
    mapping = merge(DIFFUSION, {"training": {"precision": "bfloat16"}})
    rows = {row.module: row for row in described(mapping).rows}
    assert rows["denoiser.network.stem"].dtype == "bfloat16"
    assert rows["denoiser.network.embed_time"].dtype == "float32"


def test_a_gan_is_described_too() -> None:
    found = described(GAN, depth=1)
    assert [row.module for row in found.rows] == ["generator", "discriminator", "(total)"]
    generator = found.rows[0]
    assert found.evaluation_flops == generator.flops > 0
    assert found.memory.gradients == 4 * found.rows[-1].parameters


def test_memory_for_the_batch() -> None:
    """Weights and what goes with them exactly; activations as they are with the whole batch."""
    found = described(DIFFUSION, **CONV)
    parameters = found.rows[-1].parameters
    memory = found.memory
    assert memory.gradients == 4 * parameters
    assert 8 * parameters <= memory.optimizer < 8.5 * parameters
    assert memory.averages == 2 * 4 * parameters
    whole = merge(DIFFUSION, {"training": {"batch_size": 4}})
    small = described(whole, **CONV).memory
    assert small.activations < memory.activations
    half = merge(DIFFUSION, {"training": {"micro_batch_size": 4}})
    assert described(half, **CONV).memory.activations == small.activations


def test_recomputation_is_seen_to_need_less() -> None:
    deep = {"training": {"batch_size": 256, "micro_batch_size": 256}}
    network = {**CONV, "multipliers": [1, 1, 1], "channels": 8}
    usual = described(merge(DIFFUSION, deep), **network).memory
    deep["training"]["recompute_activations"] = True
    assert described(merge(DIFFUSION, deep), **network).memory.activations < usual.activations


def test_live_memory_counts_what_is_alive_at_once() -> None:
    megabyte = 2**18  # float32
    outside = torch.ones(megabyte)
    with LiveMemory() as memory:
        x = outside.mul(2)  # 1
        y = x.view(2, -1)  # a view
        y.add_(1)
        outside.add_(1)
        z = x + 1  # 2
        del x, y
        assert memory.current == 2**20
        w = z * z  # 2
        del z, w
    assert memory.current == 0
    assert memory.peak == 2 * 2**20


def test_live_memory_sees_what_autograd_keeps() -> None:
    """ReLU keeps its output, the product both factors: 4 tensors with the gradient arriving."""
    x = torch.ones(2**18, requires_grad=True)
    with LiveMemory() as memory:
        h = F.relu(x)
        loss = (h * h).sum()
        del h
        assert memory.current == pytest.approx(2**20, rel=0.01)  # the square itself is gone
        loss.backward()
    assert 2 * 2**20 <= memory.peak <= 4.1 * 2**20
