"""Four networks that other projects train, and Sfumato's of the same shape, for timing them."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.networks.attention_unet import AttentionBlock, AttentionUNetConfig
from sfumato.networks.unet import UNetConfig
from sfumato.speed.plan import REFERENCE, Plan

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "speed"


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


@dataclass(frozen=True)
class Contender:
    """The timings of a pair.

    Args:
        plan: ours under this plan; None: the peer.
        medium: float32 products of matrices through bfloat16, as
            `torch.set_float32_matmul_precision("medium")` asks.
        frozen: compiled with the weights as constants, which only sampling can.
    """

    plan: Plan | None
    medium: bool = False
    frozen: bool = False

    def __str__(self) -> str:
        if self.plan is None:
            return PEER
        return str(self.plan) + ", medium" * self.medium + ", frozen" * self.frozen


PEER = "peer"
BF16 = Plan(precision="bfloat16")
LAST = Plan(precision="bfloat16", layout="channels_last")
GROUPS = {
    "plans": (
        Contender(None),
        Contender(REFERENCE),
        Contender(BF16),
        Contender(replace(BF16, kernels=True)),
        Contender(replace(LAST, kernels=True)),
    ),
    "tried": (
        Contender(None),
        Contender(replace(LAST, kernels=True)),
        Contender(REFERENCE, medium=True),
        Contender(replace(BF16, compile=True)),
        Contender(replace(LAST, compile=True)),
        Contender(replace(LAST, compile=True), frozen=True),
    ),
}
"""The candidates of a plan search, and what else was tried; each beside the peer.

The second has the kernels again, because only timings in turns can be compared."""
WARM_UP = 2
Build = Callable[[Pair, Contender], tuple[Callable[[], object], int]]
"""The repeated call of one contender, and its number of parameters."""


def compare(script: str, description: str | None, build: Build, can_freeze: bool) -> None:
    """Time every contender of every pair in turns, each in a process of its own.

    In one process they would share what Sfumato asks of the allocator: the peers would be timed
    with more than they have, or, with glibc's defaults put back for them, with less.

    Args:
        script: the file that is run again for a contender, with `--serve PAIR CONTENDER`.
        can_freeze: whether weights stay as they are.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=[pair.name for pair in PAIRS])
    parser.add_argument("--group", choices=list(GROUPS), default="plans")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    pairs = {pair.name: pair for pair in PAIRS}
    contenders = {str(c): c for c in GROUPS[options.group] if can_freeze or not c.frozen}
    if options.serve:
        pair, contender = options.serve
        _serve(build, pairs[pair], contenders[contender])
        return
    for pair in PAIRS if options.only is None else [pairs[options.only]]:
        processes = {
            name: _start(script, contender, "--group", options.group, "--serve", pair.name, name)
            for name, contender in contenders.items()
        }
        sizes = {name: int(_answer(process)) for name, process in processes.items()}
        seconds: dict[str, list[float]] = {name: [] for name in processes}
        for _ in range(options.rounds + WARM_UP):
            for name, process in processes.items():
                seconds[name].append(_ask(process))
        for process in processes.values():
            process.kill()
        name = Path(script).stem + ("" if options.group == "plans" else f"_{options.group}")
        save(name, [row(pair, seconds, tuple(sizes.values()))])


def _start(script: str, contender: Contender, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, script, *words]
    # Read by torch when it is imported.
    environ = os.environ | {"TORCHINDUCTOR_FREEZING": str(int(contender.frozen))}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    )


def _ask(process: "subprocess.Popen[str]") -> float:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(_answer(process))


def _answer(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise SystemExit("a contender ended; its message is above")
    return line


def _serve(build: Build, pair: Pair, contender: Contender) -> None:
    """Run once for every line that comes in, and tell the seconds."""
    torch.manual_seed(0)
    if contender.medium:
        torch.set_float32_matmul_precision("medium")
    run, size = build(pair, contender)
    print(size, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        run()
        print(time.perf_counter() - began, flush=True)


def parameters(network: nn.Module) -> int:
    """How many."""
    return sum(p.numel() for p in network.parameters())


def row(pair: Pair, seconds: dict[str, list[float]], sizes: tuple[int, ...]) -> dict[str, Any]:
    """Medians, and ratios to the peer, which comes first.

    Args:
        seconds: of every call, those to warm up first.
        sizes: parameters of each contender.
    """
    first = {name: times[0] for name, times in seconds.items()}
    seconds = {name: times[WARM_UP:] for name, times in seconds.items()}
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
        "first_call_seconds": {n: round(s, 2) for n, s in first.items()},
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
    """The rows as Markdown, a contender a line: images a second, and the ratio to the peer."""
    names = list(rows[0]["images_per_second"])
    heads = [f"{one['pair']} ({one['batch']})" for one in rows]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(rows)]
    for name in names:
        cells = [f"{one['images_per_second'][name]:.3g}" for one in rows]
        if name != PEER:
            cells = [
                f"{cell} ({one['ratio'][name]:.2f} x)"
                for cell, one in zip(cells, rows, strict=True)
            ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """The machine and versions for which the numbers hold."""
    from sfumato.core.distributed import gpu_name
    from sfumato.runs.directory import environment

    facts = environment(torch.get_num_threads(), gpu_name())
    versions = {p: version(p) for p in ("torch", "diffusers", "denoising-diffusion-pytorch")}
    return {
        "cpu": facts["cpu"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }
