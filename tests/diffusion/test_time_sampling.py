"""The distributions of training times."""

import math

import pytest
import torch

from sfumato.core.noise import Noise, TrainingNoise
from sfumato.diffusion.schedules import (
    CosineSchedule,
    EDMSchedule,
    LinearBetaSchedule,
    RectifiedFlowSchedule,
)
from sfumato.diffusion.time_sampling import (
    ImportanceSampler,
    ImportanceTimes,
    LogitNormalTimes,
    LogNormalSigma,
    UniformTimes,
)

N = 20_000


def noise(seed: int = 0) -> TrainingNoise:
    return TrainingNoise(seed, global_batch=N)


def test_uniform_times_are_all_steps_of_the_grid_alike() -> None:
    k = UniformTimes()(LinearBetaSchedule(num_steps=10), noise()) * 10
    counts = torch.bincount(k.round().long(), minlength=11)
    assert counts[0] == 0
    assert (counts[1:] / N - 0.1).abs().max().item() < 0.01  # standard error 0.002


def test_log_normal_sigma_has_the_moments_of_edm() -> None:
    sigma = 80 * LogNormalSigma()(EDMSchedule(), noise())
    assert sigma.log().mean().item() == pytest.approx(-1.2, abs=0.03)
    assert sigma.log().std().item() == pytest.approx(1.2, rel=0.02)


def test_log_normal_sigma_stays_on_the_grid_of_a_discrete_schedule() -> None:
    schedule = CosineSchedule()
    t = LogNormalSigma()(schedule, noise())
    assert torch.equal(t * 1000, (t * 1000).round())
    median = (-schedule.log_snr(t).median() / 2).item()
    assert median == pytest.approx(-1.2, abs=0.03)


def test_logit_normal_times() -> None:
    t = LogitNormalTimes(mean=0.5, std=0.8)(RectifiedFlowSchedule(), noise())
    assert t.logit().mean().item() == pytest.approx(0.5, abs=0.02)
    assert t.logit().std().item() == pytest.approx(0.8, rel=0.02)
    on_grid = LogitNormalTimes()(LinearBetaSchedule(num_steps=8), noise()) * 8
    assert on_grid.unique().tolist() == pytest.approx(list(range(1, 9)))


def test_stratified_times_have_one_in_each_equal_part_of_the_distribution() -> None:
    """The same distribution, and no part of a batch of 64 without its image, whatever the seed."""
    schedule = RectifiedFlowSchedule()
    for distribution, plain, to_uniform in (
        (UniformTimes(stratified=True), UniformTimes(), lambda t: t),
        (
            LogitNormalTimes(mean=0.5, std=0.8, stratified=True),
            LogitNormalTimes(mean=0.5, std=0.8),
            lambda t: torch.special.ndtr((t.logit() - 0.5) / 0.8),
        ),
    ):
        for seed in range(20):
            t = distribution(schedule, TrainingNoise(seed, global_batch=64))
            parts = (to_uniform(t) * 64).long()
            assert torch.equal(parts, torch.arange(64))
            t = plain(schedule, TrainingNoise(seed, global_batch=64))
            assert len((to_uniform(t) * 64).long().unique()) < 60  # 40 on average by chance
    sigma = 80 * LogNormalSigma(stratified=True)(EDMSchedule(), noise())
    assert sigma.log().mean().item() == pytest.approx(-1.2, abs=1e-3)
    k = UniformTimes(stratified=True)(LinearBetaSchedule(num_steps=10), noise()) * 10
    assert torch.bincount(k.round().long(), minlength=11).tolist() == [0] + [N // 10] * 10


def test_stratified_times_do_not_depend_on_processes_and_micro_batches() -> None:
    times = UniformTimes(stratified=True)
    whole = times(RectifiedFlowSchedule(), TrainingNoise(3, global_batch=12))
    parts = [
        times(RectifiedFlowSchedule(), TrainingNoise(3, global_batch=12, which=slice(i, i + 4)))
        for i in (0, 4, 8)
    ]
    assert torch.equal(torch.cat(parts), whole)
    alone = times(RectifiedFlowSchedule(), Noise([1, 2]))
    assert ((alone > 0) & (alone <= 1)).all()


def trained_sampler(T: int = 4) -> ImportanceSampler:
    """Has seen losses k at step k, many times."""
    sampler = ImportanceTimes(uniform_share=0.01).build(LinearBetaSchedule(num_steps=T))
    k = torch.arange(1, T + 1).repeat(20).double()
    sampler.observe(k / T, k.float())
    return sampler


def test_importance_times_follow_the_root_mean_square_loss() -> None:
    sampler = trained_sampler()
    expected = 0.99 * torch.tensor([0.1, 0.2, 0.3, 0.4]).double() + 0.01 / 4
    torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-6, atol=0)
    t, _ = sampler(noise())
    shares = torch.bincount((t * 4).round().long(), minlength=5)[1:] / N
    torch.testing.assert_close(shares.double(), expected, rtol=0, atol=0.015)


def test_importance_weights_leave_the_mean_unbiased_and_lower_the_variance() -> None:
    t, weight = trained_sampler()(noise())
    weighted = 4 * t * weight  # the loss at step k is k
    assert weighted.mean().item() == pytest.approx(2.5, abs=0.01)
    assert weighted.std().item() < 0.15  # uniform times: sqrt(1.25)


def test_importance_times_are_uniform_until_every_step_was_seen_often() -> None:
    sampler = ImportanceTimes().build(LinearBetaSchedule(num_steps=4))
    sampler.observe(torch.full((50,), 0.5, dtype=torch.float64), torch.full((50,), 9.0))
    t, weight = sampler(noise())
    assert torch.equal(weight, torch.ones(N, dtype=torch.float64))
    assert len(t.unique()) == 4


def test_importance_times_forget_old_losses() -> None:
    sampler = trained_sampler()
    for _ in range(100):
        sampler.observe(torch.tensor([0.25], dtype=torch.float64), torch.tensor([8.0]))
    expected = 8 / (8 + 2 + 3 + 4)
    assert sampler.probabilities()[0].item() == pytest.approx(expected, rel=0.02)
    assert math.isclose(sampler.probabilities().sum().item(), 1)
