"""Packing and loading, side by side with Hugging Face `datasets` and PIL in a DataLoader.

    python benchmarks/data.py path/to/image/folder --resolution 64

Needs the extra `hub`. The peer does per image and epoch what packing does once: decode, centre
crop, resize. Both get the same number of processes. Then: how many times faster the loader is
than a small U-Net trains, and how much memory a set larger than the limit for maps takes.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sfumato.core.images import from_uint8
from sfumato.data import dataset as rows
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Dataset
from sfumato.networks.unet import UNetConfig

TRAINING_BATCH = 8
"""Small, so that a few steps fit into a measurement."""


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="an image folder with train/ in class folders")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--large-gb", type=float, default=2.0, help="size of the large set")
    options = parser.parse_args()
    torch.set_num_threads(options.workers)
    table = Table("measurement", "Sfumato", "datasets + PIL", "ratio", title=str(options.folder))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SFUMATO_CACHE"] = scratch
        os.environ["HF_HOME"] = scratch
        ours, count, dataset = _pack(options)
        theirs, peer = _peer(options, scratch)
        _row(table, "prepare once, images/s", count / ours, count / theirs)
        first_loader = _rate(dataset.batches(options.batch, seed=0), options)
        peer_loader = _rate(_forever(peer), options)
        _row(table, "load, images/s", first_loader, peer_loader)
        _row(
            table,
            "one epoch from nothing, s",
            ours + count / first_loader,
            theirs + count / peer_loader,
        )
        consumed = _training_rate(dataset, options)
        _row(table, "a small U-Net trains, images/s", consumed, None)
        _row(table, "loader / U-Net", first_loader / consumed, peer_loader / consumed)
        _large(table, Path(scratch), options)
    Console().print(table)


def _pack(options: argparse.Namespace) -> tuple[float, int, Dataset]:
    """Seconds to pack, images, and the training set."""
    config = DataConfig(source=str(options.folder), resolution=options.resolution, channels=3)
    start = time.perf_counter()
    splits = load(config, workers=options.workers)
    seconds = time.perf_counter() - start
    return seconds, len(splits.train) + len(splits.held_out), splits.train


def _peer(options: argparse.Namespace, scratch: str) -> tuple[float, Any]:
    """Seconds to prepare, and a DataLoader that decodes and resizes as it goes."""
    import datasets
    from torchvision import transforms

    datasets.disable_progress_bars()
    start = time.perf_counter()
    loaded = datasets.load_dataset("imagefolder", data_dir=str(options.folder), cache_dir=scratch)
    seconds = time.perf_counter() - start
    prepare = transforms.Compose(
        [
            transforms.Resize(options.resolution),
            transforms.CenterCrop(options.resolution),
            transforms.PILToTensor(),
        ]
    )

    def transform(examples: dict[str, Any]) -> dict[str, Any]:
        images = [prepare(image.convert("RGB")) for image in examples["image"]]
        return {"image": images, "label": examples["label"]}

    loader = torch.utils.data.DataLoader(
        loaded["train"].with_transform(transform),
        batch_size=options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=True,
    )
    return seconds, loader


def _forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _rate(batches: Iterator[Any], options: argparse.Namespace) -> float:
    """Images a second, after the first batch."""
    next(batches)
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < options.seconds:
        next(batches)
        count += options.batch
    return count / elapsed


def _training_rate(dataset: Dataset, options: argparse.Namespace) -> float:
    """Images a second that a small U-Net consumes: forward, backward, Adam."""
    config = UNetConfig(channels=32, multipliers=(1, 2), blocks=1, attention=())
    network = config.build(dataset.image_shape, dataset.num_classes)
    optimizer = torch.optim.Adam(network.parameters())

    def steps() -> Iterator[None]:
        for images, labels in dataset.batches(TRAINING_BATCH, seed=0):
            x = from_uint8(images)
            loss = network(x, torch.rand(len(x)), labels).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield

    return _rate(steps(), options) * TRAINING_BATCH / options.batch


def _large(table: Table, scratch: Path, options: argparse.Namespace) -> None:
    """Throughput and memory on a file above the limit for maps, and below it for comparison."""
    shape = (int(options.large_gb * 1e9 / (3 * 64 * 64)), 3, 64, 64)
    stored = np.lib.format.open_memmap(scratch / "large.npy", "w+", np.uint8, shape)
    block = np.random.default_rng(0).integers(0, 256, (4096, *shape[1:]), dtype=np.uint8)
    for start in range(0, shape[0], len(block)):
        stored[start : start + len(block)] = block[: shape[0] - start]
    stored.flush()
    del stored
    hashes = np.zeros((shape[0], 32), np.uint8)

    def measure() -> tuple[float, float]:
        images = np.load(scratch / "large.npy", mmap_mode="r")
        dataset = Dataset(images, None, (), "large", "train", hashes)
        before = _resident_mb()
        rate = _rate(dataset.batches(options.batch, seed=0), options)
        return rate, _resident_mb() - before

    rows.MAPPED_BYTES = 2**28
    _add(table, f"{options.large_gb} GB by reads", *measure())
    rows.MAPPED_BYTES = 2**40
    _add(table, f"{options.large_gb} GB by the map", *measure())


def _resident_mb() -> float:
    """Memory of this process that is in RAM, mapped files included, in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _add(table: Table, name: str, rate: float, memory_mb: float) -> None:
    table.add_row(f"{name}: images/s", f"{rate:,.0f}", "", "")
    table.add_row(f"{name}: memory grows by, MB", f"{memory_mb:,.1f}", "", "")


def _row(table: Table, name: str, ours: float, theirs: float | None) -> None:
    def shown(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    if theirs is None:
        table.add_row(name, shown(ours), "", "")
    else:
        table.add_row(name, shown(ours), shown(theirs), f"{ours / theirs:.3g}")


if __name__ == "__main__":
    main()
