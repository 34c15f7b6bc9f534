"""Sampling never waits for the device of its images.

The images are on the device "meta", which has shapes and no values: whoever reads one back (`item`,
`if x > 0`, `cpu`) fails. What is left are copies to the device for which the CPU would wait.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from networks.tiny import TINY
from sfumato.core.noise import Noise
from sfumato.diffusion.denoiser import DynamicThreshold
from sfumato.diffusion.diffusion_model import DiffusionConfig
from sfumato.diffusion.guidance import (
    AutoGuided,
    ClassifierFreeGuidance,
    ClassifierGuided,
    NoisyClassifier,
)
from sfumato.diffusion.samplers import AnySampler
from sfumato.diffusion.samplers.heun import Churn, HeunSampler

KINDS = get_args(get_args(AnySampler)[0])
INTERVAL = (0.1, 2.0)


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the copies from the CPU to the device that are not asynchronous."""

    count = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        if func is torch.ops.aten._to_copy.default and result.device.type == "meta":
            waits = args[0].device.type == "cpu" and not given.get("non_blocking", False)
            self.count += int(waits)
        return result


def model_with(network: str = "unet", **config: Any) -> Any:
    guidance = ClassifierFreeGuidance(scale=2.0, interval=INTERVAL)
    built = DiffusionConfig(network=TINY[network], guidance=guidance, **config)
    return built.build((1, 16, 16), 10).eval().to("meta")


def waits(sampler: Any, denoiser: Any) -> int:
    x_1 = torch.empty(3, 1, 16, 16, device="meta")
    labels = torch.zeros(3, dtype=torch.int64, device="meta")
    with Waits() as counted:
        found: Tensor = sampler(denoiser, x_1, labels, Noise(range(3)))
    assert found.shape == x_1.shape
    return counted.count


def test_a_copy_that_waits_and_a_value_that_is_read_are_noticed() -> None:
    x = torch.empty(3, device="meta")
    with Waits() as counted:
        torch.zeros(3).to(x)
        torch.zeros(3).to(x, non_blocking=True)
    assert counted.count == 1
    for read in (lambda: x.sum().item(), lambda: bool((x > 0).any()), lambda: x.cpu()):
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            read()


@pytest.mark.parametrize("kind", KINDS)
def test_no_sampler_waits_and_guidance_with_an_interval_neither(kind: Any) -> None:
    for sampler in (kind(steps=5), kind(steps=5, clip=DynamicThreshold())):
        model = model_with(sampler=sampler)
        assert waits(sampler, model.config.guidance.guide(model.denoiser, 10)) == 0


def test_fresh_noise_is_not_waited_for() -> None:
    sampler = HeunSampler(steps=5, churn=Churn(amount=2.0))
    assert waits(sampler, model_with().denoiser) == 0


@pytest.mark.parametrize("network", TINY)
def test_no_network_waits(network: str) -> None:
    assert waits(HeunSampler(steps=2), model_with(network).denoiser) == 0


def test_autoguidance_and_classifiers_do_not_wait() -> None:
    strong, weak = model_with().denoiser, model_with().denoiser
    classifier = NoisyClassifier(TINY["unet"], strong.schedule, (1, 16, 16), 10).eval().to("meta")
    for guided in (
        AutoGuided(strong, weak, 2.0, INTERVAL),
        ClassifierGuided(strong, classifier, 2.0, INTERVAL),
    ):
        assert waits(HeunSampler(steps=5), guided) == 0
