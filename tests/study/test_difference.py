"""Differences of arms whose images start from the same noise."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics.estimate import Estimate, LeftOut, MetricError, jackknifed, share_of
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.frechet_interval import frechet_estimate
from sfumato.metrics.kernel import kernel_estimate
from sfumato.study.verdicts import Difference, Spread, advise, verdict, verdicts

D = 8


def frechet(fake: Tensor, real: Tensor) -> Estimate:
    return frechet_estimate(fake, FrechetReference.of(real))


SCORES: dict[str, Callable[[Tensor, Tensor], Estimate]] = {
    "frechet_distance": frechet,
    "kernel_distance": kernel_estimate,
}


def mean_of(x: Tensor) -> Estimate:
    return jackknifed(float(x.mean()), LeftOut((x.sum() - x) / (len(x) - 1)))


def bare(estimate: Estimate) -> Estimate:
    return replace(estimate, left_out=None)


def features(z: Tensor, share: float, g: torch.Generator, seed_effect: float = 0.0) -> Tensor:
    """A model's images: `share` of their variance is the noise's, the rest the model's own."""
    own = math.sqrt(share) * z + math.sqrt(1 - share) * torch.randn(z.shape, generator=g)
    return own + seed_effect * torch.randn(z.shape[1], generator=g)


def test_shared_noise_cancels_and_without_it_nothing_changes() -> None:
    g = generator("cancel")
    z = torch.randn(400, generator=g, dtype=torch.float64)
    a = mean_of(z + 0.1 * torch.randn(400, generator=g, dtype=torch.float64))
    b = mean_of(z + 0.1 * torch.randn(400, generator=g, dtype=torch.float64))
    paired, alone = Difference.of([a], [b]), Difference.of([bare(a)], [bare(b)])
    assert (paired.paired, alone.paired) == (True, False)
    assert math.sqrt(paired.variance) == pytest.approx(0.1 * math.sqrt(2 / 400), rel=0.15)
    assert math.sqrt(alone.variance) == pytest.approx(math.sqrt(2 / 400), rel=0.15)
    same = Difference.of([a], [a])
    assert (same.value, same.variance) == (0, 0)
    assert verdict([a], [a], "lower").verdict == "not shown"


def test_with_several_seeds_the_noise_they_share_is_counted_once() -> None:
    """Three models of an arm with the same images: their draws do not average out."""
    g = generator("once")
    one, two = (torch.randn(400, generator=g, dtype=torch.float64) for _ in range(2))
    found = Difference.of([mean_of(one)] * 3, [mean_of(two)] * 3)
    assert found.common == pytest.approx(2 / 400, rel=0.2)
    assert found.variance == pytest.approx(2 / 400, rel=0.2)
    assert found.each == 0
    spread = Spread.of([mean_of(one)] * 3)
    assert spread.seeds == 0
    assert spread.draws == pytest.approx(math.sqrt(1 / 400), rel=0.2)
    # Taken for independent, they would seem to.
    assert spread.variance_of_mean == pytest.approx(1 / 1200, rel=0.2)


def test_scores_of_different_protocols_are_not_compared() -> None:
    a = Estimate(1.0, 0.9, 1.1, 100, 0.05, protocol="aaa")
    with pytest.raises(MetricError, match=r"different protocols \(aaa, bbb\) cannot be compared"):
        verdict([a], [replace(a, protocol="bbb")], "lower")
    assert verdict([a], [replace(a, protocol=None)], "lower").verdict == "not shown"


def study(
    k: int,
    share: float,
    num_seeds: int,
    gap: float = 0.0,
    n: int = 120,
    metric: str = "frechet_distance",
) -> list[str]:
    """The verdicts of a simulated study of two arms from the same noise."""
    g = generator("study", k, str(share), num_seeds, str(gap), n)
    real = torch.randn(200, D, generator=g)
    z = torch.randn(n, D, generator=g)
    effect = 0.05 if num_seeds > 1 else 0.0
    arms = {
        name: {
            metric: [
                SCORES[metric](features(z, share, g, effect) + shift, real)
                for _ in range(num_seeds)
            ]
        }
        for name, shift in (("a", 0.2), ("b", 0.2 + gap))
    }
    return [v.verdict for v in verdicts(arms, {metric: "lower"})]


def false_verdicts(repeats: int, share: float, num_seeds: int, metric: str) -> float:
    found = [study(k, share, num_seeds, metric=metric) for k in range(repeats)]
    return sum(verdicts != ["not shown"] for verdicts in found) / repeats


@pytest.mark.parametrize("metric", SCORES)
def test_equal_arms_from_the_same_noise_get_no_verdict(metric: str) -> None:
    """100 A/A studies: at most 5 % false verdicts, two standard deviations allowed."""
    assert false_verdicts(100, 0.95, 1, metric) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 100)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("num_seeds", [1, 2, 3])
@pytest.mark.parametrize("metric", SCORES)
def test_equal_arms_with_any_share_of_noise_and_seeds(
    metric: str, share: float, num_seeds: int
) -> None:
    """400 A/A studies each: at most 5 %, two standard deviations allowed."""
    false = false_verdicts(400, share, num_seeds, metric)
    print(f"{metric}, {share} of the noise shared, {num_seeds} seeds: {100 * false:.2f} % false")
    assert false <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_equal_judgements_of_labels_get_no_verdict() -> None:
    """Two models right about the same images but a few, which few being chance."""
    false = 0
    for k in range(1000):
        g = generator("labels", k)
        base = torch.rand(300, generator=g) < 0.9
        flips = torch.rand(2, 300, generator=g) < 0.02
        a, b = (share_of(base ^ flip) for flip in flips)
        false += verdict([a], [b], "higher").verdict != "not shown"
    print(f"equal label accuracy: a verdict in {false} of 1000 comparisons")
    assert false / 1000 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)


def test_the_images_advised_find_the_gap_and_are_fewer_than_without_pairs() -> None:
    """At 95 % shared noise; at least 80 % of studies of the advised size find it."""
    g = generator("advice")
    reference = FrechetReference.of(torch.randn(200, D, generator=g))
    z = torch.randn(150, D, generator=g)
    a, b = (frechet_estimate(features(z, 0.95, g) + 0.2, reference) for _ in range(2))
    gap = D * (0.225**2 - 0.2**2)  # of moving all means from 0.2 to 0.225
    paired = advise(gap, Difference.of([a], [b])).num_images
    alone = advise(gap, Difference.of([bare(a)], [bare(b)])).num_images
    assert paired is not None
    assert alone is not None
    assert paired < alone / 4
    found = [study(k, 0.95, 1, gap=0.025, n=paired) for k in range(60)]
    print(
        f"95 % shared noise: N = {paired:,} advised, {alone:,} without pairs; found in "
        f"{found.count(['better'])} of 60"
    )
    assert found.count(["better"]) >= 0.8 * 60


@pytest.mark.slow
def test_the_seeds_advised_find_the_gap_and_are_fewer_than_without_pairs() -> None:
    """Where training moves a model by 0.05 too: advice from a study of 20 seeds."""
    g = generator("advice for seeds")
    reference = FrechetReference.of(torch.randn(200, D, generator=g))
    z = torch.randn(120, D, generator=g)
    a, b = (
        [frechet_estimate(features(z, 0.95, g, 0.05) + mean, reference) for _ in range(20)]
        for mean in (0.2, 0.25)
    )
    gap = D * (0.25**2 - 0.2**2)
    paired = advise(gap, Difference.of(a, b)).seeds
    alone = advise(gap, Difference.of([bare(x) for x in a], [bare(x) for x in b])).seeds
    assert paired is not None
    assert alone is not None
    assert paired < alone
    found = [study(k, 0.95, paired, gap=0.05) for k in range(60)]
    print(
        f"95 % shared noise: {paired} seeds advised, {alone} without pairs; found in "
        f"{found.count(['better'])} of 60"
    )
    assert found.count(["better"]) >= 0.8 * 60
