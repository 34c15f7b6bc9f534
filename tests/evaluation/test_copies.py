"""Images that are read when asked for count as those in memory."""

import numpy as np
import torch

from sfumato.core.noise import generator
from sfumato.data.dataset import Dataset
from sfumato.evaluation.feature_cache import Pictures
from sfumato.metrics.memorization import nearest


def dataset(count: int, seed: int) -> Dataset:
    random = generator("pictures", seed)
    images = torch.randint(256, (count, 3, 4, 4), generator=random, dtype=torch.uint8)
    return Dataset(images.numpy(), None, (), "pictures", "train")


def test_pictures_of_several_sets_are_read_in_any_order() -> None:
    a, b = dataset(20, 0), dataset(30, 1)
    rows = np.array([3, 7, 8]), np.arange(30)
    pictures = Pictures([(a, rows[0]), (b, rows[1])])
    whole = torch.cat([a.take(rows[0]), b.take(rows[1])])
    assert len(pictures) == 33
    at = torch.tensor([32, 0, 5, 2, 3, 3])
    assert torch.equal(pictures[at], whole[at])
    assert torch.equal(pictures[2:9], whole[2:9])
    found, expected = (
        nearest(pictures, Pictures([(a, np.arange(20))])),
        nearest(whole, a.take(np.arange(20))),
    )
    assert torch.equal(found.index, expected.index)
    assert found.distance[:3].tolist() == [0, 0, 0]
    assert torch.equal(found.distance, expected.distance)
