"""Memory of a Fréchet distance with its interval: the same for ten times as many images."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.frechet_interval import frechet_estimate

D = 64


def anonymous_bytes() -> int:
    """Of this process, without what is mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@contextmanager
def watched() -> Iterator[Callable[[], int]]:
    """Inside, the largest growth of memory so far."""
    start, most, done = anonymous_bytes(), [0], Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], anonymous_bytes() - start)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield lambda: most[0]
    finally:
        done.set()
        thread.join()


def in_a_file(path: Path, n: int) -> Tensor:
    """Features that are mapped, as large sets are when an image set is looked at."""
    features = torch.from_file(str(path), shared=True, size=n * D).view(n, D)
    for k, rows in enumerate(torch.split(features, 10_000)):
        rows.copy_(torch.randn(len(rows), D, generator=generator("mapped", k)))
    return features


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """200,000 images of 64 features are 102 MB in float64; what is counted is without the file."""
    growth = []
    for n in (20_000, 200_000):
        features = in_a_file(tmp_path / str(n), n)
        with watched() as most:
            estimate = frechet_estimate(features, FrechetReference.of(features[: n // 2]))
            growth.append(most())
        assert estimate.n == n
    assert growth[1] - growth[0] < 30e6
