"""Memory of distances: the same for ten times as many images, and no copy of the features."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics import blocks
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.frechet_interval import frechet_estimate
from sfumato.metrics.kernel import kernel_estimate
from sfumato.metrics.memorization import diversity, nearest
from sfumato.metrics.precision_recall import density_coverage, precision_recall
from sfumato.speed.memory import M_MMAP_THRESHOLD

D = 64
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


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


def in_a_file(path: Path, n: int, d: int = D) -> Tensor:
    """Features that are mapped, as large sets are when an image set is looked at."""
    features = torch.from_file(str(path), shared=True, size=n * d).view(n, d)
    for k, rows in enumerate(torch.split(features, 640_000 // d)):
        rows.copy_(torch.randn(len(rows), d, generator=generator("mapped", k)))
    return features


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    """Every tensor gives its memory back at once: holes in the heap of glibc are not counted."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    mallopt(M_MMAP_THRESHOLD, 2**16)
    yield
    mallopt(M_MMAP_THRESHOLD, 2**25)


@on_linux
@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize(
    "measure", [kernel_estimate, precision_recall, density_coverage, nearest, diversity]
)
def test_no_copy_of_features_is_made(
    measure: Callable[[Tensor, Tensor], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 images of 20,000 features are 16 MB in float32, and 32 in float64."""
    monkeypatch.setattr(blocks, "BYTES", 2**21)
    x, y = (in_a_file(tmp_path / name, 200, 20_000) for name in "xy")
    measure(x[:20], y[:20])  # what the first call needs once
    with watched() as most:
        measure(x, y)
        assert most() < 12e6


@on_linux
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
