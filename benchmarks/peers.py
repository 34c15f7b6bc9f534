"""Four networks that other projects train, and Sfumato's of the same shape, for timing them."""

import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core.allocator import KEPT, LARGEST_BLOCK, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
from sfumato.networks.attention_unet import AttentionBlock, AttentionUNetConfig
from sfumato.networks.unet import UNetConfig
from sfumato.run.performance import REFERENCE, Plan

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "speed"
PLANS = (
    REFERENCE,
    Plan(precision="bfloat16"),
    Plan(precision="bfloat16", kernels=True),
    Plan(precision="bfloat16", layout="channels_last", kernels=True),
)


@dataclass(frozen=True)
class Pair:
    """A peer's network and ours."""

    name: str
    batch: int
    shape: tuple[int, int, int]
    peer: Callable[[], nn.Module]
    ours: UNetConfig | AttentionUNetConfig
    note: str = ""


class _Diffusers(nn.Module):
    def __init__(self, **config: Any) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.network = UNet2DModel(**config)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t).sample  # type: ignore[no-any-return]


def _cifar10() -> nn.Module:
    return _Diffusers(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )


def _small() -> nn.Module:
    return _Diffusers(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )


def _lucidrains() -> nn.Module:
    from denoising_diffusion_pytorch import Unet

    return Unet(64)  # type: ignore[no-any-return]


class _MultiheadBlock(nn.Module):
    """The transformer block of AttentionUNet with torch.nn.MultiheadAttention."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.after = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        h = self.norm(tokens)
        tokens = tokens + self.attention(h, h, h)[0]
        tokens = tokens + self.after(tokens)
        return tokens.transpose(1, 2).reshape(x.shape)


def _multihead() -> nn.Module:
    network = AttentionUNetConfig().build((3, 32, 32), 0)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, AttentionBlock):
                channels, heads = child.out.out_features, child.heads
                setattr(parent, name, _MultiheadBlock(channels, heads))
    return network


PAIRS = (
    Pair(
        "ddpm-cifar10",
        32,
        (3, 32, 32),
        _cifar10,
        UNetConfig(
            channels=128,
            multipliers=(1, 2, 2, 2),
            blocks=2,
            attention=(16,),
            downsampling_pad="end",
        ),
        "diffusers UNet2DModel, google/ddpm-cifar10-32",
    ),
    Pair(
        "unet-64",
        16,
        (3, 32, 32),
        _lucidrains,
        UNetConfig(channels=64, multipliers=(1, 2, 4, 8), blocks=1, attention=(4,), heads=4),
        "denoising-diffusion-pytorch Unet(64); not the same network: ours has the same widths, "
        "GroupNorm, no linear attention, 9 % more multiplications and 20 % more parameters",
    ),
    Pair(
        "attention-unet",
        32,
        (3, 32, 32),
        _multihead,
        AttentionUNetConfig(),
        "the same network with torch.nn.MultiheadAttention",
    ),
    Pair(
        "unet-28",
        128,
        (1, 28, 28),
        _small,
        UNetConfig(channels=32, multipliers=(1, 2, 4), blocks=1, attention=(7,), head_channels=8),
        "diffusers UNet2DModel, widths 32, 64, 128, attention at 7x7 with heads of 8",
    ),
)


def timed(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in turns; the first round, which warms up, is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            hold_freed_memory(name != "peer")
            began = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def hold_freed_memory(held: bool) -> None:
    """As Sfumato has it, or as glibc does by itself once large tensors have been freed.

    That is its dynamic threshold at its upper limit: without this the peers, who do not ask for
    more, would be timed with what Sfumato asked for in the same process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK if held else 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, KEPT if held else 64 * 2**20)


def parameters(network: nn.Module) -> int:
    """How many."""
    return sum(p.numel() for p in network.parameters())


def row(pair: Pair, seconds: dict[str, list[float]], sizes: tuple[int, int]) -> dict[str, Any]:
    """Medians, and ratios to the peer."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "pair": pair.name,
        "note": pair.note,
        "batch": pair.batch,
        "parameters": {"peer": sizes[0], "sfumato": sizes[1]},
        "rounds": len(seconds["peer"]),
        "images_per_second": {n: round(pair.batch / m, 2) for n, m in medians.items()},
        "ratio": {n: round(medians["peer"] / m, 3) for n, m in medians.items()},
        "spread": {n: round((max(t) - min(t)) / medians[n], 3) for n, t in seconds.items()},
    }


def save(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table and keep the rows, with those of other pairs measured before."""
    for one in rows:
        print(f"{one['pair']} (batch {one['batch']}, {one['note']})")
        for contender, rate in one["images_per_second"].items():
            print(f"  {contender:44} {rate:9.1f} img/s  {one['ratio'][contender]:5.2f} x")
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = json.loads(path.read_text())["rows"] if path.exists() else []
    names = {one["pair"] for one in rows}
    order = [pair.name for pair in PAIRS]
    merged = [one for one in saved if one["pair"] not in names] + list(rows)
    content = {"machine": machine(), "rows": sorted(merged, key=lambda r: order.index(r["pair"]))}
    path.write_text(json.dumps(content, indent=2) + "\n")
    path.with_suffix(".md").write_text(table(content["rows"]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown: images a second, and in brackets the ratio to the peer."""
    names = list(rows[0]["images_per_second"])
    lines = [
        f"| network (batch) | {' | '.join(names)} |",
        "|---|" + "---:|" * len(names),
    ]
    for one in rows:
        cells = [
            f"{rate:.3g}" + ("" if name == "peer" else f" ({one['ratio'][name]:.2f} x)")
            for name, rate in one["images_per_second"].items()
        ]
        lines.append(f"| {one['pair']} ({one['batch']}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """What the numbers hold for."""
    from sfumato.run.directory import environment

    facts = environment()
    versions = {p: version(p) for p in ("torch", "diffusers", "denoising-diffusion-pytorch")}
    return {
        "cpu": facts["cpu"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }
