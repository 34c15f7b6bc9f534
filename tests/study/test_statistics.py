"""Verdicts: error rates by simulation, and the advice that the tool gives."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind

from sfumato.core.noise import derive_seed, generator
from sfumato.metrics.estimate import Estimate, with_standard_error
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.frechet_interval import frechet_estimate
from sfumato.study.verdicts import Better, Difference, Spread, advise, verdict, verdicts


def scores(values: list[float], error: float = 0.0, n: int = 1000) -> list[Estimate]:
    return [with_standard_error(value, error, n) for value in values]


def random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive_seed("statistics", seed)))


def known(draws: float, seeds: float | None, num_seeds: int) -> Difference:
    """The difference of two arms whose spread is known, at N = 1,000."""
    between = None if seeds is None else 2 * seeds**2
    return Difference(0.5, 1.0, 1.0, between, 2 * draws**2, 0.0, num_seeds, 1000, False)


@pytest.mark.parametrize(("better", "decision"), [("lower", "better"), ("higher", "worse")])
def test_verdict_follows_the_direction_of_the_metric(better: Better, decision: str) -> None:
    found = verdict(scores([4.0], 0.1), scores([5.0], 0.1), better, names=("ddpm", "gan"))
    assert found.verdict == decision
    assert found.difference == pytest.approx(-1)
    reach = 1.959964 * math.sqrt(0.02)
    assert (found.low, found.high) == pytest.approx((-1 - reach, -1 + reach), abs=1e-6)
    assert f"ddpm is {decision} than gan by 1 [0.723, 1.28]" in found.text
    assert "one training seed" in found.text


def test_with_several_seeds_the_interval_is_welchs() -> None:
    a, b = [4.0, 4.4, 4.1], [5.0, 5.9, 5.2, 5.4]
    found = verdict(scores(a), scores(b), "lower")
    exact = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), rel=1e-9)
    assert "one training seed" not in found.text


def test_more_comparisons_widen_the_interval_until_nothing_is_shown() -> None:
    a, b = scores([4.0], 0.1), scores([4.33], 0.1)
    assert verdict(a, b, "lower", comparisons=1).verdict == "better"
    wide = verdict(a, b, "lower", comparisons=6)
    assert wide.verdict == "not shown"
    assert "not shown with these data" in wide.text
    assert wide.high - wide.low == pytest.approx(2 * 2.638257 * 0.1 * math.sqrt(2), rel=1e-6)


def test_spreads_are_kept_apart() -> None:
    rng = random(0)
    values = 10 + 0.3 * rng.standard_normal(4000) + 0.4 * rng.standard_normal(4000)
    spread = Spread.of(scores(values.tolist(), 0.4))
    assert spread.draws == pytest.approx(0.4)
    assert spread.seeds == pytest.approx(0.3, rel=0.1)
    assert Spread.of(scores([1.0], 0.4)).seeds is None
    # Values closer together than their own draws allow do not make the arm more certain.
    assert Spread.of(scores([1.0, 1.0], 0.4)).variance_of_mean == pytest.approx(0.08)


def test_all_pairs_and_metrics_that_both_arms_have() -> None:
    arms = {
        "a": {"fd": scores([1.0], 0.1), "accuracy": scores([0.9], 0.01)},
        "b": {"fd": scores([2.0], 0.1), "accuracy": scores([0.9], 0.01)},
        "c": {"fd": scores([3.0], 0.1)},
    }
    found = verdicts(arms, {"fd": "lower", "accuracy": "higher"})
    assert [(v.metric, v.a, v.b, v.verdict) for v in found] == [
        ("fd", "a", "b", "better"),
        ("fd", "a", "c", "better"),
        ("fd", "b", "c", "better"),
        ("accuracy", "a", "b", "not shown"),
    ]
    assert found[0].high - found[0].low == pytest.approx(
        2 * 2.497705 * 0.1 * math.sqrt(2),
        rel=1e-6,  # 4 comparisons
    )


def test_equal_scores_get_no_false_advice() -> None:
    found = verdict(scores([4.0], 0.1), scores([4.0], 0.1), "lower")
    assert "out of reach" in found.text


def test_advice_for_images_is_exact_when_draws_are_all() -> None:
    """Spread falls as 1 / sqrt(N): a quarter of the gap needs 16 times the images."""
    found = Difference.of(scores([4.0], 0.1), scores([4.0], 0.1))
    some, more = advise(0.4, found).num_images, advise(0.1, found).num_images
    assert some is not None
    assert more is not None
    assert more / some == pytest.approx(16, rel=0.01)


@pytest.mark.parametrize(("draws", "seeds"), [(0.3, 0.3), (0.1, 0.6), (0.6, 0.1)])
def test_a_five_percent_gap_is_found_with_the_seeds_advised(draws: float, seeds: float) -> None:
    """A gap of 0.5 between arms at 10: at least 80 % of studies of the advised size find it."""
    rng = random(1)

    def arm(mean: float, count: int, draws: float = draws) -> list[Estimate]:
        spread = math.hypot(draws, seeds)
        return scores((mean + spread * rng.standard_normal(count)).tolist(), draws)

    true = known(draws, seeds, num_seeds=2)
    advice = advise(0.5, true, comparisons=3)
    assert advice.seeds is not None
    found = [
        verdict(arm(10.0, advice.seeds), arm(10.5, advice.seeds), "lower", 3).verdict
        for _ in range(150)
    ]
    print(
        f"gap of 5 %, draws {draws} and seeds {seeds}: {advice.seeds} seeds advised, found in "
        f"{found.count('better')} of 150"
    )
    assert found.count("better") >= 0.8 * 150
    assert found.count("worse") == 0


def test_a_five_percent_gap_is_found_with_the_images_advised() -> None:
    rng = random(2)
    advice = advise(0.5, known(0.4, None, num_seeds=1), comparisons=3)
    assert advice.num_images is not None
    error = 0.4 * math.sqrt(1000 / advice.num_images)
    found = [
        verdict(
            scores([10.0 + error * rng.standard_normal()], error),
            scores([10.5 + error * rng.standard_normal()], error),
            "lower",
            3,
        ).verdict
        for _ in range(400)
    ]
    print(
        f"gap of 5 %, one seed: N = {advice.num_images:,} advised, found in "
        f"{found.count('better')} of 400"
    )
    assert found.count("better") >= 0.8 * 400


@pytest.mark.parametrize("num_seeds", [1, 2, 3])
def test_studies_of_equal_arms_rarely_end_in_a_verdict(num_seeds: int) -> None:
    """Three equal arms, at most 5 % of 300 studies say anything (2 sd allowed)."""
    rng = random(3)

    def arm(spread: float) -> list[Estimate]:
        seeds = 0.3 if num_seeds > 1 else 0.0
        values = 10 + math.hypot(seeds, spread) * rng.standard_normal(num_seeds)
        return scores(values.tolist(), spread)

    false = 0
    for _ in range(300):
        found = verdicts({name: {"fd": arm(0.3)} for name in "abc"}, {"fd": "lower"})
        assert len(found) == 3
        false += any(v.verdict != "not shown" for v in found)
    print(f"three equal arms, {num_seeds} seeds: a verdict in {false} of 300 studies")
    assert false / 300 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.slow
def test_studies_of_equal_arms_with_real_frechet_distances() -> None:
    """1,000 A/A studies of three arms from one distribution, scored through the jackknife."""
    false = 0
    d, n = 32, 150
    scale = torch.linspace(0.3, 2, d)
    for study in range(1000):
        g = generator("aa2", study)
        reference = FrechetReference.of(torch.randn(n, d, generator=g) * scale)
        arms = {
            name: {"fd": [frechet_estimate(torch.randn(n, d, generator=g) * scale, reference)]}
            for name in "abc"
        }
        false += any(v.verdict != "not shown" for v in verdicts(arms, {"fd": "lower"}))
    print(f"three equal arms, Fréchet distances, one seed: a verdict in {false} of 1000 studies")
    assert false <= 50
