"""Tiny experiments that train in a second."""

from typing import Any

from sfumato.core.config import merge, parse
from sfumato.experiment.experiment import Experiment

DIFFUSION: dict[str, Any] = {
    "name": "tiny-ddpm",
    "model": {
        "kind": "diffusion",
        "network": {
            "kind": "unet",
            "channels": 8,
            "multipliers": [1],
            "blocks": 1,
            "attention": [],
            "patch": 2,
            "dropout": 0.1,
        },
        "sampler": {"kind": "ddim", "steps": 3},
    },
    "training": {
        # The reference plan: choosing one by timing would take longer than these runs.
        "precision": "float32",
        "layout": "contiguous",
        "kernels": False,
        "compile": False,
        "batch_size": 16,
        "budget_images": 128,
        "log_images": 32,
        "sample_images": 64,
        "checkpoint_images": 32,
        "tensorboard": False,
        "averages": [{"kind": "exponential", "half_life_images": 50.0}, {"kind": "power"}],
    },
}

GAN: dict[str, Any] = {
    **DIFFUSION,
    "name": "tiny-gan",
    "model": {"kind": "gan", "network": {"kind": "dcgan", "channels": 4, "latent_dim": 8}},
}


def experiment(base: dict[str, Any], **training: Any) -> Experiment:
    """`base` with changes of its training table."""
    return parse(Experiment, merge(base, {"training": training}), "test")
