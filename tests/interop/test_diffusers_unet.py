"""The U-Net equals diffusers' UNet2DModel with the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from sfumato.core.errors import ConfigError
from sfumato.experiment.experiment import load_experiment
from sfumato.interop.diffusers_unet import read_unet, unet_config, unet_from_diffusers

COMMON: dict[str, Any] = {
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
DDPM_CIFAR10: dict[str, Any] = {  # google/ddpm-cifar10-32
    **COMMON,
    "sample_size": 32,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "downsample_padding": 0,
}
SMALL: dict[str, Any] = {
    **COMMON,
    "sample_size": 8,
    "block_out_channels": [32, 64],
    "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
RESIDUAL = {
    "down_block_types": ["ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"],
    "up_block_types": ["ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "symmetric padding": {},
    "padding at the end": {"downsample_padding": 0},
    "classes": {"num_class_embeds": 11},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8},
    "several heads": {"attention_head_dim": 16},
    "BigGAN resampling": RESIDUAL,
    "BigGAN resampling after attention": {
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "down_block_types": ["AttnDownBlock2D", "ResnetDownsampleBlock2D"],
        "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D"],
    },
    "not square, grey, learned variance": {
        "sample_size": (8, 12),
        "in_channels": 1,
        "out_channels": 2,
    },
    "three levels of one block": {
        "block_out_channels": [32, 32, 64],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    },
}


def theirs(settings: dict[str, Any]) -> UNet2DModel:
    """Their network with random weights everywhere, none of them zero."""
    torch.manual_seed(0)
    network = UNet2DModel(**settings).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return network


def check_equal(settings: dict[str, Any], batch: int) -> None:
    peer = theirs(settings)
    network = unet_from_diffusers(settings, peer.state_dict()).eval()
    size = settings["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.randn(batch, settings.get("in_channels", 3), height, width)
    step = torch.linspace(0, 999, batch).round()
    labels = torch.arange(batch) if "num_class_embeds" in settings else None
    with torch.no_grad():
        expected = peer(x, step, labels).sample
        found = network(x, step, labels)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_network_of_ddpm_cifar10_gives_the_same_output() -> None:
    check_equal(DDPM_CIFAR10, batch=2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_small_network_gives_the_same_output(variant: str) -> None:
    check_equal({**SMALL, **VARIANTS[variant]}, batch=3)


def test_the_recipe_has_the_network_of_ddpm_cifar10() -> None:
    """But for dropout and how weights start, of which their config says nothing."""
    changes = ["model.network.dropout=0", "model.network.initialization=torch"]
    recipe = load_experiment("cifar10-ddpm", changes).model
    assert recipe.network == unet_config(DDPM_CIFAR10)  # type: ignore[union-attr]


def test_a_folder_is_read_with_the_old_names_of_the_hub(tmp_path: Path) -> None:
    peer = theirs(SMALL)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in peer.state_dict().items():
        for new, before in old.items():
            name = name.replace(new, before)
        state[name] = tensor
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **SMALL}))
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    x, step = torch.randn(1, 3, 8, 8), torch.tensor([7.0])
    with torch.no_grad():
        found = read_unet(tmp_path).eval()(x, step)
        torch.testing.assert_close(found, peer(x, step).sample, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"norm_eps": 1e-5}, "norm_eps=1e-05"),
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
        ({"block_out_channels": [32, 48]}, "multiples of the first"),
        ({"norm_num_groups": 32}, "at least 4 channels"),
        ({"sample_size": None}, "sample_size"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups"),
        ({"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "AttnUpBlock2D"),
        ({"downsample_type": "resnet"}, "one kind of resampling"),
    ],
)
def test_another_kind_of_network_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        unet_config({**SMALL, **change})


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    state = theirs(SMALL).state_dict()
    with pytest.raises(ConfigError, match="do not belong"):
        unet_from_diffusers({**SMALL, "layers_per_block": 1}, state)
    with pytest.raises(ConfigError, match="do not belong"):
        unet_from_diffusers({**SMALL, "block_out_channels": [64, 64]}, state)
    with pytest.raises(ConfigError, match="it should hold"):
        read_unet(tmp_path)
