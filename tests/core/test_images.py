"""The [-1, 1] <-> uint8 convention."""

import torch

from sfumato.core.images import from_uint8, to_uint8


def test_every_level_survives_the_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    scaled = from_uint8(levels)
    assert (scaled.min().item(), scaled.max().item()) == (-1.0, 1.0)
    assert torch.equal(to_uint8(scaled), levels)


def test_values_are_rounded_to_nearest_and_clipped() -> None:
    values = torch.tensor([-7.0, -1.0, 1 / 127.5 * 0.49 - 1, 1 / 127.5 * 0.51 - 1, 1.0, 3.0])
    assert to_uint8(values.view(1, 1, 1, 6)).flatten().tolist() == [0, 0, 0, 1, 255, 255]
