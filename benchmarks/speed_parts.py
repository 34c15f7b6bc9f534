"""What a step is made of, and what else changes its time, on this machine.

    python benchmarks/speed_parts.py            # all, about ten minutes
    python benchmarks/speed_parts.py profile

rates: matrix products and convolutions (GFLOP/s). norm: GroupNorm with SiLU, PyTorch's and the
kernel. batches: one evaluation by the number of images. micro: a training step by micro-batches.
allocator: keeping freed memory or not. profile: operators of a training step and an evaluation.
Each writes docs/results/speed/NAME.md. The networks are those of peers.py and that of the recipe
fashion-mnist-flow, in bfloat16, channels last, with kernels.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from peers import PAIRS, RESULTS
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from sfumato.core.images import Batch
from sfumato.data.cache import cache_folder
from sfumato.diffusion.model import DiffusionConfig
from sfumato.networks.norm_kernel import norm_kernel, reference
from sfumato.run import performance
from sfumato.run.experiment import TrainingConfig, load_experiment
from sfumato.run.optimizer import AdamW
from sfumato.run.performance import KEYS, Plan, apply_plan, computing
from sfumato.run.trainer import Trainer

FAST = Plan(precision="bfloat16", layout="channels_last", kernels=True)
FLOW = "fashion-mnist-flow"
SECONDS = 2.0
"""That each number is measured for, at least."""
PARTS = {
    "convolutions": ("convolution",),
    "matrix products": ("mm", "linear"),
    "attention": ("scaled_dot_product", "softmax", "bmm", "baddbmm"),
    "normalization, activations": ("_Normalize", "norm", "silu", "gelu"),
    "optimizer, average": ("adam", "lerp", "_foreach"),
    "copies, joining, resampling": ("copy_", "cat", "upsample", "clone", "contiguous", "fill_"),
}
"""Operators by a word in their names; the first that fits, attention before products."""


def median_seconds(call: Callable[[], object]) -> float:
    """Of one call, after two."""
    call(), call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def networks() -> dict[str, tuple[int, tuple[int, int, int], object]]:
    """Name, batch, shape and config."""
    flow = load_experiment(FLOW, [])
    ours = {FLOW: (flow.training.batch_size, (1, 28, 28), flow.model.network)}
    return ours | {pair.name: (pair.batch, pair.shape, pair.ours) for pair in PAIRS}


def evaluation(name: str, batch: int) -> Callable[[], object]:
    """One evaluation of a network, as in sampling."""
    _, shape, config = networks()[name]
    network = config.build(shape, 0).eval().requires_grad_(False)
    apply_plan(network, FAST)
    x, t = torch.randn(batch, *shape), torch.rand(batch) * 100

    def evaluate() -> None:
        with torch.inference_mode(), computing(x.device, FAST):
            network(x, t)

    return evaluate


def training_step(name: str, micro: int | None = None) -> Callable[[], object]:
    """A step of the trainer."""
    batch, shape, network = networks()[name]
    config = TrainingConfig(
        batch_size=batch,
        micro_batch_size=micro,
        budget_steps=1000,
        optimizer=AdamW(),
        **{key: getattr(FAST, key) for key in KEYS},
    )
    model = DiffusionConfig(network=network).build(shape, 0)
    trainer = Trainer(config, model, torch.device("cpu"))
    images = Batch(torch.rand(batch, *shape) * 2 - 1)
    return lambda: trainer.step(images)


def rates() -> str:
    """Of a processor: what products and convolutions can do at most."""
    a = torch.randn(2048, 2048)
    lines = ["| GFLOP/s | float32 | bfloat16 |", "|---|---:|---:|"]

    def line(what: str, operations: float, call: Callable[[torch.dtype], Callable[[], object]]):
        cells = [
            f"{operations / median_seconds(call(dtype)) / 1e9:.0f}"
            for dtype in (torch.float32, torch.bfloat16)
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")

    line("2048 x 2048 products", 2 * 2048**3, lambda dtype: lambda b=a.to(dtype): b @ b)
    for channels, size in ((128, 32), (256, 16), (512, 8)):
        for layout in (torch.contiguous_format, torch.channels_last):
            word = "channels last" if layout == torch.channels_last else "contiguous"
            what = f"3x3 convolution, {channels} channels, {size} x {size}, {word}, with gradients"
            operations = 3 * 2 * 32 * size**2 * channels**2 * 9
            line(what, operations, lambda d, c=channels, s=size, m=layout: _convolve(c, s, d, m))
    return "\n".join(lines)


def _convolve(
    channels: int, size: int, dtype: torch.dtype, layout: torch.memory_format
) -> Callable[[], object]:
    x = torch.randn(32, channels, size, size, dtype=dtype).to(memory_format=layout)
    w = torch.randn(channels, channels, 3, 3, dtype=dtype).to(memory_format=layout)
    x.requires_grad_(True), w.requires_grad_(True)

    def call() -> None:
        y = F.conv2d(x, w, padding=1)
        torch.autograd.grad(y, (x, w), y.detach())

    return call


def norm() -> str:
    """Forward and backward, ms."""
    kernel = norm_kernel(cache_folder() / "kernels")
    lines = [
        "| GroupNorm and SiLU in bfloat16 (ms) | forward, PyTorch | kernel | backward, PyTorch "
        "| kernel |",
        "|---|---:|---:|---:|---:|",
    ]
    for shape in ((32, 128, 32, 32), (128, 64, 14, 14)):
        for layout in (torch.contiguous_format, torch.channels_last):
            cells: dict[str, float] = {}
            for name, function in (("PyTorch", reference), ("kernel", kernel)):
                x = torch.randn(shape, dtype=torch.bfloat16).to(memory_format=layout)
                a, b = torch.ones(shape[1]), torch.zeros(shape[1])
                x.requires_grad_(True), a.requires_grad_(True), b.requires_grad_(True)
                call = lambda f=function, x=x, a=a, b=b: f(x, a, b, 32, 1e-5, "silu")  # noqa: E731
                with torch.no_grad():
                    forward = median_seconds(call)
                y = call()
                both = lambda y=y, x=x, a=a, b=b: torch.autograd.grad(  # noqa: E731
                    y, (x, a, b), y.detach(), retain_graph=True
                )
                cells |= {f"{name} forward": forward, f"{name} backward": median_seconds(both)}
            order = ("PyTorch forward", "kernel forward", "PyTorch backward", "kernel backward")
            word = "channels last" if layout == torch.channels_last else "contiguous"
            what = " x ".join(map(str, shape))
            lines.append(
                f"| {what}, {word} | " + " | ".join(f"{cells[k] * 1e3:.2f}" for k in order) + " |"
            )
    return "\n".join(lines)


def batches() -> str:
    """img/s of one evaluation."""
    sizes = (4, 8, 16, 32, 64, 128, 256)
    lines = [f"| one evaluation, img/s | {' | '.join(map(str, sizes))} |"]
    lines.append("|---|" + "---:|" * len(sizes))
    for name in networks():
        most = 64 if name in ("ddpm-cifar10", "attention-unet") else 256
        cells = [
            f"{size / median_seconds(evaluation(name, size)):,.0f}" if size <= most else ""
            for size in sizes
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def micro() -> str:
    """img/s of a training step."""
    lines = [
        "| training by micro-batches, img/s | whole | half | quarter | eighth |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, (batch, _, _) in networks().items():
        cells = [
            f"{batch / median_seconds(training_step(name, batch // parts)):,.0f}"
            for parts in (1, 2, 4, 8)
        ]
        lines.append(f"| {name}, batch {batch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def memory_kept() -> str:
    """img/s in processes of their own, in turns: the allocator is told once."""
    lines = [
        "| freed memory, img/s | given back | kept |",
        "|---|---:|---:|",
    ]
    for name in (FLOW, "unet-28", "ddpm-cifar10"):
        for what in ("training", "evaluation"):
            found: dict[str, list[float]] = defaultdict(list)
            for _ in range(2):
                for kept in ("given-back", "kept"):
                    words = [sys.executable, __file__, "--serve", name, what, kept]
                    found[kept].append(float(subprocess.check_output(words, text=True)))
            cells = [f"{min(v):,.0f} to {max(v):,.0f}" for v in found.values()]
            lines.append(f"| {name}, {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def serve(name: str, what: str, kept: str) -> None:
    """One rate, of a process that keeps freed memory or does not."""
    if kept == "given-back":
        performance.keep_freed_memory = lambda: False  # type: ignore[assignment]
    batch = networks()[name][0]
    call = training_step(name) if what == "training" else evaluation(name, batch)
    print(batch / median_seconds(call))


def operators() -> str:
    """Share of the time by kind of operator."""
    heads = [*PARTS, "rest"]
    lines = [f"| share of the time (%) | ms | {' | '.join(heads)} |"]
    lines.append("|---|---:|" + "---:|" * len(heads))
    for name, (batch, _, _) in networks().items():
        for what, call in (
            ("training step", training_step(name)),
            ("evaluation", evaluation(name, batch)),
        ):
            seconds = median_seconds(call)
            with profile(activities=[ProfilerActivity.CPU]) as found:
                for _ in range(3):
                    call()
            shares = _shares(found)
            cells = " | ".join(f"{shares[head]:.0f}" for head in heads)
            lines.append(f"| {name} ({batch}), {what} | {seconds * 1e3:.0f} | {cells} |")
    return "\n".join(lines)


def _shares(found: profile) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for event in found.key_averages():
        fits = [k for k, words in PARTS.items() if any(word in event.key for word in words)]
        # `bmm` is a product of attention: it holds the word of products, too.
        part = "attention" if "attention" in fits else (fits or ["rest"])[0]
        sums[part] += event.self_cpu_time_total
    whole = sum(sums.values())
    return defaultdict(float, {part: 100 * s / whole for part, s in sums.items()})


SECTIONS = {
    "rates": rates,
    "norm": norm,
    "batches": batches,
    "micro": micro,
    "allocator": memory_kept,
    "profile": operators,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", nargs="*", choices=[*SECTIONS, []])
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    for name in options.section or SECTIONS:
        table = SECTIONS[name]()
        print(table, flush=True)
        (RESULTS / f"{name}.md").write_text(table + "\n")


if __name__ == "__main__":
    main()
