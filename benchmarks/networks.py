"""Parameters, operations and speed of the networks, for docs/results/networks.md.

    python benchmarks/networks.py --output docs/results/networks.md

Speeds are of the bare network: forward without gradients, and a training step (forward, backward,
fused AdamW), each the median of several. On the CPU, in float32 and in bfloat16 (autocast).
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.experiment.experiment import load_experiment
from sfumato.explore.describe import flop_counter
from sfumato.networks import Network
from sfumato.networks.attention_unet import AttentionUNetConfig
from sfumato.networks.ddpmpp import DDPMPPConfig
from sfumato.networks.dit import DiTConfig
from sfumato.networks.edm2 import EDM2Config
from sfumato.networks.plain_nets import ConvNetConfig, MinimalUNetConfig
from sfumato.networks.unet import UNetConfig
from sfumato.speed.plan import autocast

CIFAR = (3, 32, 32)


@dataclass(frozen=True)
class Entry:
    """A network and the images it is measured on; `out_channels` as its paper has them."""

    name: str
    config: Network
    shape: tuple[int, int, int] = CIFAR
    num_classes: int = 0
    out_channels: int = 3
    timed: bool = True


def _of_recipe(name: str) -> Network:
    model = load_experiment(name, []).model
    return model.network  # type: ignore[return-value]


ENTRIES = [
    Entry("U-Net, recipe digits-ddpm", _of_recipe("digits-ddpm"), (1, 8, 8), 10, 1),
    Entry("U-Net, recipe fashion-mnist-ddpm", _of_recipe("fashion-mnist-ddpm"), (1, 28, 28), 10, 1),
    Entry("U-Net, DDPM on CIFAR-10", _of_recipe("cifar10-ddpm")),
    Entry(
        "U-Net, improved DDPM on CIFAR-10",
        UNetConfig(blocks=3, attention=(16, 8), heads=4, conditioning="scale_shift"),
        out_channels=6,
    ),
    Entry(
        "U-Net, ADM on ImageNet-64",
        UNetConfig(
            channels=192,
            multipliers=(1, 2, 3, 4),
            blocks=3,
            attention=(32, 16, 8),
            head_channels=64,
            conditioning="scale_shift",
            resampling="residual",
        ),
        (3, 64, 64),
        1000,
        6,
        timed=False,
    ),
    Entry("DDPM++, EDM on CIFAR-10", DDPMPPConfig()),
    Entry("EDM2-XS, ImageNet-512 latents", EDM2Config(channels=128), (4, 64, 64), 1000, 4, False),
    Entry("EDM2-S, ImageNet-512 latents", EDM2Config(), (4, 64, 64), 1000, 4, False),
    Entry(
        "EDM2, 64 channels, 3 levels",
        EDM2Config(channels=64, multipliers=(1, 2, 2), blocks=2, attention=(8,)),
    ),
    Entry("attention U-Net, 3 levels", AttentionUNetConfig()),
    Entry(
        "attention U-Net, 2 levels",
        AttentionUNetConfig(multipliers=(1, 2, 4), bottleneck_blocks=2),
    ),
    Entry(
        "attention U-Net, 2 levels, half width",
        AttentionUNetConfig(channels=32, multipliers=(1, 2, 4), bottleneck_blocks=2),
    ),
    Entry("DiT-S/2", DiTConfig()),
    Entry("DiT-S/4", DiTConfig(patch=4)),
    Entry(
        "DiT-XL/2, ImageNet-256 latents",
        DiTConfig(channels=1152, blocks=28, heads=16),
        (4, 32, 32),
        1000,
        8,
        False,
    ),
    Entry("minimal U-Net", MinimalUNetConfig()),
    Entry("convolutional net", ConvNetConfig()),
]


def main() -> None:
    """Measure and print a table; write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each measurement")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--no-times", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [
        "| network | images | parameters | GFLOP per image | forward, float32 | bfloat16 "
        "| training, float32 | bfloat16 |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in ENTRIES:
        if options.only in entry.name:
            lines.append(_line(entry, options))
            print(lines[-1], flush=True)
    text = _page(lines, options)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


def _line(entry: Entry, options: argparse.Namespace) -> str:
    with torch.device("meta"):
        network = _build(entry)
        count = sum(p.numel() for p in network.parameters())
        inputs = _inputs(entry, 1)
        with flop_counter() as counter, torch.no_grad():
            network(*inputs)
    times = ["", "", "", ""]
    if entry.timed and not options.no_times:
        times = [
            f"{rate:,.1f}" if rate < 100 else f"{rate:,.0f}" for rate in _rates(entry, options)
        ]
    cells = [
        entry.name,
        "x".join(map(str, entry.shape)),
        f"{count:,}",
        f"{counter.get_total_flops() / 1e9:.3g}",
        *times,
    ]
    return "| " + " | ".join(cells) + " |"


def _rates(entry: Entry, options: argparse.Namespace) -> Sequence[float]:
    """Images a second: forward in float32 and bfloat16, training in both."""
    torch.manual_seed(0)
    network = _build(entry)
    inputs = _inputs(entry, options.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    device = torch.device("cpu")

    def forward(precision: str) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad(), autocast(device, precision):
                network(*inputs)

        return run

    def training(precision: str) -> Callable[[], None]:
        def run() -> None:
            with autocast(device, precision):
                output = network(*inputs)
            optimizer.zero_grad()
            output.float().square().mean().backward()
            optimizer.step()

        return run

    return [
        options.batch / _seconds(kind(precision), options.seconds)
        for kind in (forward, training)
        for precision in ("float32", "bfloat16")
    ]


def _seconds(run: Callable[[], None], least: float) -> float:
    """The median time of a run, over as many runs as fit into `least` seconds, at least 2."""
    run()
    times: list[float] = []
    while len(times) < 2 or sum(times) < least:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _build(entry: Entry) -> nn.Module:
    return entry.config.build(entry.shape, entry.num_classes, entry.out_channels)


def _inputs(entry: Entry, batch: int) -> tuple[Tensor, Tensor, Tensor | None]:
    labels = torch.zeros(batch, dtype=torch.int64) if entry.num_classes else None
    return torch.randn(batch, *entry.shape), torch.rand(batch), labels


def _page(lines: list[str], options: argparse.Namespace) -> str:
    return "\n".join(
        [
            "# Networks: parameters, operations, speed",
            "",
            "One evaluation of the bare network. GFLOP: a multiply-add counts as two. Speeds are "
            "images per second",
            f"with a batch of {options.batch}: forward without gradients, and forward, backward "
            "and fused AdamW; medians. PyTorch's own",
            "operations, NCHW, eager. The performance plan of training is faster. Empty: too "
            "large for this machine.",
            "",
            *lines,
            "",
            f"{_machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads. "
            "Made by `python benchmarks/networks.py --output docs/results/networks.md`.",
            "",
        ]
    )


def _machine() -> str:
    """The processor, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
