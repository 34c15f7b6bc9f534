"""What does not go together is refused, with the reason."""

from typing import Any

import pytest

from sfumato.core.config import parse
from sfumato.core.errors import ConfigError
from sfumato.gan.gan_model import GANConfig

PENALTY = {"kind": "gradient_penalty"}
PLAIN = {"kind": "dcgan", "normalization": "none"}
SPECTRAL = {"kind": "resnet_gan", "normalization": "spectral"}


def config(**fields: Any) -> GANConfig:
    return parse(GANConfig, {"kind": "gan", **fields}, "test")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"regularizers": [{"kind": "r1"}]}, "batch normalization .* depend on all images"),
        ({"network": PLAIN, "regularizers": [PENALTY, PENALTY]}, "gradient_penalty twice"),
        ({"regularizers": [{"kind": "path_length"}]}, "StyleGAN2's w, which .* 'dcgan' has not"),
        (
            {"network": PLAIN, "unrolled": {}, "regularizers": [{"kind": "r2"}]},
            "looks ahead along .* without penalties",
        ),
        ({"loss": {"kind": "wasserstein"}}, "nothing bounds this one"),
        (
            {
                "network": PLAIN,
                "loss": {"kind": "wasserstein", "clip": 0.01},
                "regularizers": [PENALTY],
            },
            "bounds the critic twice",
        ),
        (
            {"network": SPECTRAL, "loss": {"kind": "wasserstein", "clip": 0.01}},
            "clipping them changes nothing",
        ),
        (
            {"loss": {"kind": "wasserstein", "clip": 0.01}, "unrolled": {}},
            "without clipping",
        ),
        ({"loss": {"kind": "hinge", "real_target": 0.9}}, "smooths labels, and this loss has none"),
        ({"loss": {"kind": "wasserstein", "fake_target": 0.1}}, "smooths labels"),
        ({"loss": {"kind": "minimax", "real_target": 1.2}}, "minimax needs 0 <= fake_target"),
        ({"input_noise_images": 100}, "it is 0 from the start"),
        ({"discriminator_steps": 0}, "discriminator_steps' is 0; it should be at least 1"),
        (
            {"network": PLAIN, "regularizers": [{"kind": "r1", "weight": 0.0}]},
            "weight' is 0.0; it should be above 0",
        ),
    ],
)
def test_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        config(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"network": PLAIN, "loss": {"kind": "wasserstein"}, "regularizers": [PENALTY]},
        {"network": SPECTRAL, "loss": {"kind": "wasserstein"}},
        {"network": SPECTRAL, "loss": {"kind": "hinge"}, "discriminator_steps": 5},
        {"loss": {"kind": "wasserstein", "clip": 0.01}, "discriminator_steps": 5},
        {"loss": {"kind": "least_squares", "real_target": 0.9}, "input_noise": 0.1},
        {"loss": {"kind": "minimax"}, "unrolled": {"steps": 10}},
        {
            "network": {"kind": "dcgan", "normalization": "layer"},
            "loss": {"kind": "relativistic"},
            "regularizers": [{"kind": "r1", "every": 1}, {"kind": "r2", "every": 1}],
        },
        {
            "network": {"kind": "stylegan2"},
            "regularizers": [{"kind": "r1"}, {"kind": "path_length"}],
        },
        {"network": PLAIN, "loss": {"kind": "hinge"}, "regularizers": [PENALTY]},
    ],
)
def test_what_makes_sense_is_accepted(fields: dict[str, Any]) -> None:
    assert config(**fields).kind == "gan"
