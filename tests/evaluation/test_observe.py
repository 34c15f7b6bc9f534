"""What was seen of real images is kept in the cache, in files that are mapped into memory."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from metrics.test_memory import watched
from sfumato.core.errors import DataError
from sfumato.data.dataset import Dataset
from sfumato.evaluation.feature_cache import FeatureCache
from sfumato.evaluation.image_sources import stored_images
from sfumato.metrics.features import FeatureNetwork

D = 128


def spread_out(images: Tensor) -> Tensor:
    """`D` features of an image of one pixel."""
    return images.flatten(1).float() * torch.arange(1, D + 1) / 255


def dataset(folder: Path, n: int) -> Dataset:
    """N images of a pixel."""
    path = folder / f"{n}.npz"
    np.savez(path, x=np.random.Generator(np.random.PCG64(0)).integers(0, 256, (n, 1, 1), np.uint8))
    (found,) = stored_images(str(path)).parts
    return found


def cached(cache: Path, calls: list[int] | None = None) -> FeatureCache:
    """One that counts the images it computes features of."""

    def compute(images: Tensor) -> Tensor:
        if calls is not None:
            calls.append(len(images))
        return spread_out(images)

    return FeatureCache(FeatureNetwork("spread", "0" * 64, D, "none", compute), None, cache, 1000)


def test_images_are_looked_at_once_unless_the_file_is_damaged(tmp_path: Path) -> None:
    images, calls = dataset(tmp_path, 50), []  # type: ignore[var-annotated]
    expected = spread_out(images.take(np.arange(50)))
    for _ in range(2):
        seen = cached(tmp_path / "cache", calls).dataset(images)
        assert torch.equal(seen.vectors, expected)
        assert calls == [50]
    seen.vectors.zero_()  # stays with whoever does it
    (file,) = (tmp_path / "cache" / "features").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(cached(tmp_path / "cache", calls).dataset(images).vectors, expected)
    assert calls == [50, 50]


def test_a_full_disk_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = dataset(tmp_path, 50)
    full = type("usage", (), {"free": 50 * D * 4 - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    with pytest.raises(DataError, match="make room or set SFUMATO_CACHE"):
        cached(tmp_path / "cache").dataset(images)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """The features of 100,000 images are 51 MB; first computed, then read again."""
    for again in (False, True):
        growth = []
        for n in (10_000, 100_000):
            images = dataset(tmp_path, n)
            with watched() as most:
                seen = cached(tmp_path / "cache").dataset(images)
                float(seen.vectors[-1].sum())
                growth.append(most())
        assert growth[1] - growth[0] < 20e6, again
