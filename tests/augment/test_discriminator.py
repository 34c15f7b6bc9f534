"""Adaptive p against a simulated discriminator, and what is refused."""

import pytest
import torch

from sfumato.augment.discriminator import ADA, AdaptiveAugmentation, DiffAugment
from sfumato.augment.pipeline import Pipeline
from sfumato.core.noise import TrainingNoise

BATCH = 32


def play(augmentation: AdaptiveAugmentation, steps: int, overfitting: float) -> list[float]:
    """p after each step against a discriminator that is sure of `overfitting - p` more images."""
    found = []
    for step in range(steps):
        sure = overfitting - float(augmentation.p)  # E[sign] of a discriminator that overfits
        logits = torch.where(torch.linspace(-1, 1, BATCH) <= sure, 1.0, -1.0)
        logits = logits * (1 + step % 3)  # only the sign counts
        augmentation.observe(logits)
        augmentation.adapt()
        found.append(float(augmentation.p))
    return found


def test_p_rises_at_the_stated_speed_and_waits_between() -> None:
    augmentation = ADA(rise_images=BATCH * 40, interval=4).build()
    path = play(augmentation, 20, overfitting=5.0)
    assert path[:4] == [0, 0, 0, pytest.approx(0.1)]
    assert path[3::4] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert path[7:10] == pytest.approx([0.2, 0.2, 0.2])


def test_p_settles_where_the_overfitting_sign_is_at_its_target() -> None:
    augmentation = ADA(rise_images=BATCH * 400, target=0.6).build()
    path = play(augmentation, 500, overfitting=0.95)
    # r_t = 0.95 - p, up to the 1/16 steps of the sign of 32 images, crosses 0.6 at p = 0.35.
    assert min(path[-100:]) > 0.25
    assert max(path[-100:]) < 0.45


def test_p_falls_back_to_0_and_never_leaves_0_to_1() -> None:
    falling = ADA(probability=0.3, rise_images=BATCH * 40).build()
    assert play(falling, 100, overfitting=-1.0)[-1] == 0
    rising = ADA(probability=0.9, rise_images=BATCH * 10).build()
    assert play(rising, 40, overfitting=9.0)[-1] == 1
    fixed = ADA(probability=0.25, adaptive=False).build()
    assert set(play(fixed, 20, overfitting=5.0)) == {0.25}


def test_micro_batches_count_like_one_batch() -> None:
    whole, parts = (ADA(rise_images=1000, interval=1).build() for _ in range(2))
    logits = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, -1])
    whole.observe(logits)
    whole.adapt()
    for part in logits.split(3):
        parts.observe(part)
    parts.adapt()
    assert float(parts.p) == float(whole.p) == pytest.approx(8 / 1000)


def test_the_state_between_adjustments_is_saved() -> None:
    first, second = (ADA(rise_images=BATCH * 40).build() for _ in range(2))
    path = play(first, 16, overfitting=5.0)
    half = ADA(rise_images=BATCH * 40).build()
    play(half, 6, overfitting=5.0)
    second.load_state_dict(half.state_dict())
    assert play(second, 10, overfitting=5.0) == path[6:]


def test_a_p_that_may_leak_is_told() -> None:
    assert ADA(probability=0.75).build().warnings() == []
    (message,) = ADA(probability=0.85).build().warnings()
    assert "p has gone above 0.8" in message


def test_images_are_changed_with_probability_p() -> None:
    x = torch.rand(2000, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    pipeline = Pipeline(blit=False, geometric=False, colour=False, cutout=True)
    augmentation = ADA(pipeline=pipeline, probability=0.3).build()
    found = augmentation(x, TrainingNoise(0, global_batch=2000))
    share = (found != x).flatten(1).any(1).double().mean().item()
    assert share == pytest.approx(0.3, abs=0.041)  # four standard deviations


def test_diff_augment_changes_every_image_and_passes_gradients() -> None:
    x = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = DiffAugment().build()(x, TrainingNoise(0, global_batch=64))
    assert (found != x).flatten(1).any(1).all()
    assert (found == 0).double().mean().item() > 0.1  # covered
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probability": 1.5}, "'probability' is 1.5; it should be at most 1"),
        ({"adaptive": False}, "changes nothing"),
        ({"target": 1.0}, "'target' is 1.0; it should be below 1"),
        ({"interval": 0}, "'interval' is 0; it should be at least 1"),
    ],
)
def test_impossible_settings_of_ada_are_explained(
    arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ADA(**arguments)


def test_impossible_settings_of_diff_augment_are_explained() -> None:
    with pytest.raises(ValueError, match=r"'cutout' is 1.0; it should be below 1"):
        DiffAugment(cutout=1.0)
    with pytest.raises(ValueError, match="every change off"):
        DiffAugment(colour=False, translation=0.0, cutout=0.0)
