"""The parts of a step, and what else changes its time, on this machine.

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
from functools import partial

import torch
from peers import PAIRS, RESULTS
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from sfumato.core.files import cache_folder
from sfumato.core.images import Batch
from sfumato.diffusion.diffusion_model import DiffusionConfig
from sfumato.experiment.experiment import load_experiment
from sfumato.speed import plan as performance
from sfumato.speed.kernels.norm import norm_kernel, reference
from sfumato.speed.plan import Plan, apply_plan, computing
from sfumato.training.optimizer import AdamW
from sfumato.training.trainer import Trainer
from sfumato.training.training_config import PLAN_KEYS, TrainingConfig

FAST = Plan(precision="bfloat16", layout="channels_last", kernels=True)
FLOW = "fashion-mnist-flow"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
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


def table(head: list[str], rows: list[list[str]]) -> str:
    """As Markdown."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rounded(rate: float) -> str:
    """To three digits, or to a whole number."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


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
        **{key: getattr(FAST, key) for key in PLAN_KEYS},
    )
    model = DiffusionConfig(network=network).build(shape, 0)
    trainer = Trainer(config, model, torch.device("cpu"))
    images = Batch(torch.rand(batch, *shape) * 2 - 1)
    return lambda: trainer.step(images)


def rates() -> str:
    """The peak rates of a processor in products and convolutions."""
    a = torch.randn(2048, 2048)
    products = _gflops(2 * 2048**3, lambda dtype: partial(torch.mm, a.to(dtype), a.to(dtype)))
    rows = [["2048 x 2048 products", *products]]
    for channels, size in ((128, 32), (256, 16), (512, 8)):
        operations = 3 * 2 * 32 * size**2 * channels**2 * 9
        for word, layout in LAYOUTS.items():
            what = f"3x3 convolution, {channels} channels, {size} x {size}, {word}, with gradients"
            rows.append([what, *_gflops(operations, partial(_convolve, channels, size, layout))])
    return table(["GFLOP/s", "float32", "bfloat16"], rows)


def _gflops(operations: float, build: Callable[[torch.dtype], Callable[[], object]]) -> list[str]:
    types = (torch.float32, torch.bfloat16)
    return [f"{operations / median_seconds(build(dtype)) / 1e9:.0f}" for dtype in types]


def _convolve(
    channels: int, size: int, layout: torch.memory_format, dtype: torch.dtype
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
    rows = []
    for shape in ((32, 128, 32, 32), (128, 64, 14, 14)):
        for word, layout in LAYOUTS.items():
            times = [_norm_times(function, shape, layout) for function in (reference, kernel)]
            cells = [
                f"{seconds * 1e3:.2f}" for both in zip(*times, strict=True) for seconds in both
            ]
            rows.append([f"{' x '.join(map(str, shape))}, {word}", *cells])
    head = ["forward, PyTorch", "kernel", "backward, PyTorch", "kernel"]
    return table(["GroupNorm and SiLU in bfloat16 (ms)", *head], rows)


def _norm_times(
    function: Callable[..., Tensor], shape: tuple[int, ...], layout: torch.memory_format
) -> tuple[float, float]:
    """Seconds forward and backward."""
    x = torch.randn(shape, dtype=torch.bfloat16).to(memory_format=layout).requires_grad_(True)
    a = torch.ones(shape[1], requires_grad=True)
    b = torch.zeros(shape[1], requires_grad=True)
    call = partial(function, x, a, b, 32, 1e-5, "silu")
    with torch.no_grad():
        forward = median_seconds(call)
    y = call()
    backward = partial(torch.autograd.grad, y, (x, a, b), y.detach(), retain_graph=True)
    return forward, median_seconds(backward)


def batches() -> str:
    """img/s of one evaluation."""
    sizes = (4, 8, 16, 32, 64, 128, 256)
    rows = []
    for name in networks():
        most = 64 if name in ("ddpm-cifar10", "attention-unet") else 256
        fitting = [size for size in sizes if size <= most]
        rates = [rounded(size / median_seconds(evaluation(name, size))) for size in fitting]
        rows.append([name, *rates, *[""] * (len(sizes) - len(rates))])
    return table(["one evaluation, img/s", *map(str, sizes)], rows)


def micro() -> str:
    """img/s of a training step."""
    rows = []
    for name, (batch, _, _) in networks().items():
        steps = (training_step(name, batch // parts) for parts in (1, 2, 4, 8))
        rates = [rounded(batch / median_seconds(step)) for step in steps]
        rows.append([f"{name}, batch {batch}", *rates])
    return table(["training by micro-batches, img/s", "whole", "half", "quarter", "eighth"], rows)


def memory_kept() -> str:
    """img/s in separate processes, in turns: the allocator is set once per process."""
    rows = []
    for name in (FLOW, "unet-28", "ddpm-cifar10"):
        for what in ("training", "evaluation"):
            found: dict[str, list[float]] = defaultdict(list)
            for _ in range(2):
                for kept in ("given-back", "kept"):
                    words = [sys.executable, __file__, "--serve", name, what, kept]
                    found[kept].append(float(subprocess.check_output(words, text=True)))
            cells = [f"{rounded(min(v))} to {rounded(max(v))}" for v in found.values()]
            rows.append([f"{name}, {what}", *cells])
    return table(["freed memory, img/s", "given back", "kept"], rows)


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
    rows = []
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
            cells = [f"{shares[head]:.0f}" for head in heads]
            rows.append([f"{name} ({batch}), {what}", f"{seconds * 1e3:.0f}", *cells])
    return table(["share of the time (%)", "ms", *heads], rows)


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
