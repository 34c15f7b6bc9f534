"""Flips and shifts: exact pixels, the right frequencies, a function of the noise alone."""

import pytest
import torch

from sfumato.augment.geometric import Augmentation
from sfumato.core.noise import TrainingNoise


def images(count: int = 64, shape: tuple[int, ...] = (3, 6, 5)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), generator=generator).to(torch.uint8)


def noise(count: int = 64, step: int = 0) -> TrainingNoise:
    return TrainingNoise(0, step, "augment", global_batch=count)


def test_nothing_asked_nothing_changed() -> None:
    assert torch.equal(Augmentation()(images(), noise()), images())


def test_each_image_is_itself_or_its_mirror_image() -> None:
    before = images(2000)
    after = Augmentation(flip=True)(before, noise(2000))
    mirrored = (after == before.flip(3)).flatten(1).all(1)
    same = (after == before).flatten(1).all(1)
    assert (mirrored | same).all()
    # Binomial with p = 1/2: four standard deviations are 89.
    assert abs(int(mirrored.sum()) - 1000) < 89


def test_shifts_are_windows_of_the_reflected_image_and_all_occur() -> None:
    before = images(1000, (1, 6, 5))
    after = Augmentation(shift=2)(before, noise(1000))
    padded = torch.nn.functional.pad(before.float(), (2, 2, 2, 2), mode="reflect")
    seen = torch.zeros(5, 5, dtype=torch.int64)
    for row in range(5):
        for column in range(5):
            window = padded[:, :, row : row + 6, column : column + 5]
            seen[row, column] = (window == after).flatten(1).all(1).sum()
    assert seen.sum() == 1000, "each image is exactly one window"
    # Binomial with p = 1/25: mean 40, standard deviation 6.2.
    assert seen.min() > 15
    assert seen.max() < 65


def test_a_process_that_sees_a_part_of_the_batch_draws_the_same() -> None:
    augment = Augmentation(flip=True, shift=1)
    whole = augment(images(), noise())
    part = slice(20, 50)
    alone = augment(images()[part], TrainingNoise(0, 0, "augment", global_batch=64, which=part))
    assert torch.equal(alone, whole[part])
    assert not torch.equal(augment(images(), noise(step=1)), whole)


def test_range_and_dtype_are_kept() -> None:
    floats = images().float() / 127.5 - 1
    after = Augmentation(flip=True, shift=1)(floats, noise())
    assert after.dtype == torch.float32
    assert torch.isin(after, floats).all()


def test_bad_shifts_are_explained() -> None:
    with pytest.raises(ValueError, match="'shift' is -1; it should be at least 0"):
        Augmentation(shift=-1)
    with pytest.raises(ValueError, match="should be below 5"):
        Augmentation(shift=5)(images(), noise())
