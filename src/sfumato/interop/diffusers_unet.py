"""Reads the U-Net of diffusers' `UNet2DModel` (google/ddpm-cifar10-32 and similar models)."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sfumato.core.errors import ConfigError
from sfumato.networks.unet import UNet, UNetConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"
DEFAULTS: dict[str, Any] = {
    "act_fn": "silu",
    "attn_norm_num_groups": None,
    "attention_head_dim": 8,
    "block_out_channels": [224, 448, 672, 896],
    "center_input_sample": False,
    "class_embed_type": None,
    "down_block_types": ["DownBlock2D"] + 3 * ["AttnDownBlock2D"],
    "downsample_padding": 1,
    "downsample_type": "conv",
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "out_channels": 3,
    "resnet_time_scale_shift": "default",
    "sample_size": None,
    "time_embedding_type": "positional",
    "up_block_types": 3 * ["AttnUpBlock2D"] + ["UpBlock2D"],
    "upsample_type": "conv",
}
"""The defaults of UNet2DModel."""
FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "center_input_sample": False,
    "class_embed_type": None,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "norm_eps": 1e-6,
    "time_embedding_type": "positional",
}
"""The only values that this U-Net supports."""
BLOCK = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "project": "time_emb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "skip": "conv_shortcut",
}
ENDS = {
    "stem": "conv_in",
    "embed_time.linear_1": "time_embedding.linear_1",
    "embed_time.linear_2": "time_embedding.linear_2",
    "norm": "conv_norm_out",
    "head": "conv_out",
}
ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Layer names today -> those in files from before 2023, which the hub still has."""


def read_unet(folder: Path) -> UNet:
    """The network of a folder with `config.json` and its weights in safetensors.

    Raises:
        ConfigError: a file is missing or damaged, or the network is of another kind.
    """
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(
            f"cannot read a UNet2DModel from {folder}: {error}; it should hold config.json and "
            f"{WEIGHTS}"
        ) from None
    return unet_from_diffusers(settings, state)


def unet_from_diffusers(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> UNet:
    """The U-Net with the weights of a UNet2DModel.

    Args:
        settings: its config. The last of its class embeddings, if any, becomes the null class.
        state: its state dict, with old or new names.
    Raises:
        ConfigError: the U-Net here has no such option, or the weights do not belong to it.
    """
    config = unet_config(settings)
    size = settings.get("sample_size") or 2 ** (len(config.multipliers) - 1)
    height, width = (size, size) if isinstance(size, int) else size
    num_classes = (settings.get("num_class_embeds") or 1) - 1
    shape = (settings.get("in_channels", 3), height, width)
    with torch.random.fork_rng(devices=[]):
        network = config.build(shape, num_classes, settings.get("out_channels", 3))
    try:
        network.load_state_dict(_renamed(network, config, state))
    except (KeyError, RuntimeError) as error:
        raise ConfigError(
            f"the weights do not belong to this UNet2DModel: {str(error)[:300]}; check that config "
            "and weights are of the same model"
        ) from None
    return network


def unet_config(settings: Mapping[str, Any]) -> UNetConfig:
    """The config of the U-Net that a UNet2DModel's config describes.

    Raises:
        ConfigError: it has a setting that the U-Net here does not support.
    """
    given = {name: settings.get(name, default) for name, default in DEFAULTS.items()}
    for name, value in FIXED.items():
        if given[name] != value:
            raise ConfigError(
                f"UNet2DModel with {name}={given[name]!r} is not supported; only {value!r}"
            )
    widths, downs = list(given["block_out_channels"]), list(given["down_block_types"])
    if any(width % widths[0] for width in widths):
        raise ConfigError(
            f"UNet2DModel with block_out_channels={widths} is not supported; only multiples of the "
            "first"
        )
    size = given["sample_size"]
    if size is None:
        raise ConfigError("UNet2DModel without sample_size is not supported; add it to its config")
    height = size if isinstance(size, int) else size[0]
    attends = [kind == "AttnDownBlock2D" for kind in downs]
    residual = "ResnetDownsampleBlock2D" in downs or given["downsample_type"] == "resnet"
    _check_blocks(given, attends, residual)
    head_channels = given["attention_head_dim"]
    return UNetConfig(
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=given["layers_per_block"],
        attention=tuple(height // 2**level for level, attend in enumerate(attends) if attend),
        head_channels=head_channels,
        dropout=given["dropout"],
        conditioning="add" if given["resnet_time_scale_shift"] == "default" else "scale_shift",
        resampling="residual" if residual else "convolution",
        downsampling_pad="end" if given["downsample_padding"] == 0 else "both",
        groups=given["norm_num_groups"],
    )


def _check_blocks(given: Mapping[str, Any], attends: list[bool], residual: bool) -> None:
    """Refuse blocks, and combinations of blocks, that the U-Net here does not support."""
    plain = "ResnetDownsampleBlock2D" if residual else "DownBlock2D"
    downs = ["AttnDownBlock2D" if attend else plain for attend in attends]
    ups = [kind.replace("Downsample", "Upsample").replace("Down", "Up") for kind in downs[::-1]]
    kinds = ("resnet", "resnet") if residual else ("conv", "conv")
    found = (list(given["down_block_types"]), list(given["up_block_types"]))
    needs_kind = any(attends)  # of resampling, which attention blocks are distinguished
    if found != (downs, ups) or (
        needs_kind and (given["downsample_type"], given["upsample_type"]) != kinds
    ):
        raise ConfigError(
            f"UNet2DModel with blocks {found[0]} and {found[1]} is not supported; only {downs} and "
            f"{ups} with one kind of resampling"
        )
    groups = given["norm_num_groups"]
    widths = given["block_out_channels"]
    if any(width % groups or width < 4 * groups for width in widths):
        raise ConfigError(
            f"UNet2DModel with norm_num_groups={groups} at widths {list(widths)} is not supported: "
            "a group has at least 4 channels here"
        )
    in_middle = given["attn_norm_num_groups"]
    if in_middle is None and given["resnet_time_scale_shift"] == "default":
        in_middle = groups
    if in_middle != groups:
        raise ConfigError(
            f"UNet2DModel with attn_norm_num_groups={given['attn_norm_num_groups']} is not "
            f"supported; only {groups}, its norm_num_groups"
        )


def _renamed(network: UNet, config: UNetConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with the names, and packed queries, keys and values, of the U-Net here."""
    left = dict(state)
    found: dict[str, Tensor] = {}

    def take(ours: str, theirs: str) -> None:
        for leaf in ("weight", "bias"):
            found[f"{ours}.{leaf}"] = left.pop(f"{theirs}.{leaf}")

    def take_attention(ours: str, theirs: str) -> None:
        is_old = f"{theirs}.query.weight" in left
        names = list(ATTENTION.values() if is_old else ATTENTION)
        take(f"{ours}.norm", f"{theirs}.group_norm")
        take(f"{ours}.out", f"{theirs}.{names[3]}")
        for leaf in ("weight", "bias"):
            parts = [left.pop(f"{theirs}.{name}.{leaf}") for name in names[:3]]
            found[f"{ours}.qkv.{leaf}"] = torch.cat(parts)
        for layer in ("qkv", "out"):
            found[f"{ours}.{layer}.weight"] = found[f"{ours}.{layer}.weight"][:, :, None, None]

    def take_block(ours: str, theirs: str) -> None:
        for name, other in BLOCK.items():
            if f"{theirs}.{other}.weight" in left:
                take(f"{ours}.{name}", f"{theirs}.{other}")

    for ours, theirs in ENDS.items():
        take(ours, theirs)
    if network.embed_class is not None:
        found["embed_class.vectors.weight"] = left.pop("class_embedding.weight")
    for ours, block, attention in _stages(config):
        if f"{block}.conv.weight" in left:
            take(f"{ours}.block.conv", f"{block}.conv")
        else:
            take_block(f"{ours}.block", block)
        if f"{attention}.group_norm.weight" in left:
            take_attention(f"{ours}.attention", attention)
    if left:
        raise KeyError(f"not used: {', '.join(sorted(left)[:3])}")
    return found


def _stages(config: UNetConfig) -> Iterator[tuple[str, str, str]]:
    """For each stage of the U-Net, in order: our name, their block's and their attention's."""
    levels = len(config.multipliers)
    index = 0
    for level in range(levels):
        if level > 0:
            yield f"down.{index}", f"down_blocks.{level - 1}.downsamplers.0", ""
            index += 1
        for block in range(config.blocks):
            theirs = f"down_blocks.{level}"
            yield f"down.{index}", f"{theirs}.resnets.{block}", f"{theirs}.attentions.{block}"
            index += 1
    yield "middle.0", "mid_block.resnets.0", "mid_block.attentions.0"
    yield "middle.1", "mid_block.resnets.1", ""
    index = 0
    for level in range(levels):
        theirs = f"up_blocks.{level}"
        for block in range(config.blocks + 1):
            yield f"up.{index}", f"{theirs}.resnets.{block}", f"{theirs}.attentions.{block}"
            index += 1
        if level < levels - 1:
            yield f"up.{index}", f"{theirs}.upsamplers.0", ""
            index += 1
