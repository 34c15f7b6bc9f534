"""How many images are drawn at once."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from networks.tiny import TINY
from sfumato.core.noise import Noise
from sfumato.diffusion.diffusion_model import DiffusionConfig
from sfumato.diffusion.guidance import ClassifierFreeGuidance
from sfumato.diffusion.samplers.heun import HeunSampler
from sfumato.gan.gan_model import GANConfig
from sfumato.networks.mlp_gan import MLPGANConfig
from sfumato.speed import sampling as sample
from sfumato.speed.memory import MOST_ON_CPU, SHARE, LiveMemory, images_at_once
from sfumato.speed.sampling import sample_batches

GUIDED = DiffusionConfig(
    network=TINY["unet"],
    sampler=HeunSampler(steps=3),
    guidance=ClassifierFreeGuidance(scale=2.0),
)
GUIDED_LATER = replace(GUIDED, guidance=ClassifierFreeGuidance(scale=2.0, interval=(0.001, 1.0)))
LABELS = torch.tensor([3, 1, 4, 1])


@pytest.mark.parametrize(
    "model",
    [
        GUIDED.build((1, 16, 16), 10),
        GUIDED_LATER.build((1, 16, 16), 10),
        GANConfig(network=MLPGANConfig()).build((1, 16, 16), 10),
    ],
    ids=["diffusion", "guided-after-the-first-step", "gan"],
)
@torch.inference_mode()
def test_as_many_images_as_half_of_the_memory_holds(model: Any) -> None:
    """The peak of drawing 12 images leaves room for what was free, and not for twice as many."""
    model.eval()
    labels = LABELS.repeat(3)
    with LiveMemory() as memory:
        model.sample(labels, Noise(range(12)))
    free = int(memory.peak / SHARE)
    assert 8 <= images_at_once(model, LABELS, free) <= 14


@torch.inference_mode()
def test_never_fewer_than_one_or_more_than_is_useful() -> None:
    model = GUIDED.build((1, 16, 16), 10).eval()
    assert images_at_once(model, LABELS, free=1) == 1
    assert images_at_once(model, LABELS, free=2**50) == MOST_ON_CPU
    assert 1 <= images_at_once(model, LABELS) <= MOST_ON_CPU  # of what is free on this machine


def test_only_the_first_step_is_taken_to_find_out() -> None:
    model = GUIDED.build((1, 8, 8), 10).eval()
    calls = []
    model.denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        images_at_once(model, LABELS)
    assert len(calls) == 4  # Heun's first step has two, for one image and for two


def test_what_is_free_is_asked_every_time_and_the_probe_costs_one_step() -> None:
    model = GUIDED.build((1, 8, 8), 10).eval()
    calls = []
    model.denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        assert images_at_once(model, LABELS, 2**20) < images_at_once(model, LABELS, 2**21)
    assert len(calls) == 8
    first = [len(part) for part in sample_batches(model, LABELS, range(4))]
    drawn = len(calls) - 8
    assert first == [4]
    assert drawn == 4 + 5  # the probe, and Heun's three steps


def test_batches_have_the_size_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def three(model: nn.Module, labels: torch.Tensor | None) -> int:
        return 3

    monkeypatch.setattr(sample, "images_at_once", three)
    model = GUIDED.build((1, 8, 8), 10).eval()
    found = [len(part) for part in sample_batches(model, LABELS.repeat(2), range(8))]
    assert found == [3, 3, 2]
