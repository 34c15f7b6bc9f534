"""Random streams: what each draw depends on."""

import torch

from sfumato.core.noise import Noise, TrainingNoise, derive_seed


def test_an_image_depends_on_its_own_seed_alone() -> None:
    together, alone = Noise([5, 6, 7]), Noise([6])
    for _ in range(2):
        assert torch.equal(together.normal(3, 4)[1], alone.normal(3, 4)[0])
    assert torch.equal(together.uniform(2)[1], alone.uniform(2)[0])


def test_slices_of_a_training_step_make_up_the_global_batch() -> None:
    whole = TrainingNoise(0, 17, "denoiser", global_batch=10)
    parts = [
        TrainingNoise(0, 17, "denoiser", global_batch=10, which=s)
        for s in (slice(0, 3), slice(3, 10))
    ]
    for draw in ("normal", "uniform"):
        expected = getattr(whole, draw)(2)
        assert torch.equal(torch.cat([getattr(p, draw)(2) for p in parts]), expected)
    assert [len(p) for p in parts] == [3, 7]


def test_another_step_phase_or_seed_draws_other_numbers() -> None:
    streams = [("a", 0, 1), ("b", 0, 1), ("a", 1, 1), ("a", 0, 2)]
    draws = [TrainingNoise(*parts, global_batch=4).normal(1).tolist() for parts in streams]
    assert len({str(draw) for draw in draws}) == 4


def test_a_derived_seed_never_changes() -> None:
    """Recorded: resuming an old run must draw what the old version drew."""
    assert derive_seed(0, 1, "denoiser") == 1589433821952398737
    assert derive_seed("1") != derive_seed(1)


def test_normals_have_the_moments_of_a_normal() -> None:
    x = TrainingNoise(1, global_batch=100_000).normal()
    assert abs(x.mean().item()) < 4 / 100_000**0.5
    assert abs(x.var().item() - 1) < 4 * (2 / 100_000) ** 0.5
