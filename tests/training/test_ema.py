"""Weight averages against their closed forms."""

import pytest
import torch

from sfumato.training.averages import (
    AveragedWeights,
    ExponentialAverage,
    PowerAverage,
    gamma_of_relative_std,
)


def averaged(profile: ExponentialAverage | PowerAverage, values: list[float]) -> float:
    """The average of a weight that takes `values`, one after each image."""
    module = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    average = AveragedWeights(module, profile)
    for images, value in enumerate(values, start=1):
        torch.nn.init.constant_(module.weight, value)
        average.update(images, 1)
    return average.tensors["weight"].item()


def test_half_of_the_past_is_forgotten_in_a_half_life() -> None:
    profile = ExponentialAverage(half_life_images=20, rampup=1000)
    assert averaged(profile, [1.0] * 500 + [0.0] * 20) == pytest.approx(0.5, rel=1e-6)


def test_the_untrained_weights_are_forgotten_early() -> None:
    """With the ramp-up the half-life is 5 % of the run so far."""
    profile = ExponentialAverage(half_life_images=1e9, rampup=0.05)
    assert averaged(profile, [100.0] * 10 + [0.0] * 90) < 1e-10


def test_the_power_profile_weighs_position_s_by_s_to_the_gamma() -> None:
    """For weights that grow as s the average tends to t (g + 1) / (g + 2)."""
    profile = PowerAverage(relative_std=0.1)
    length, gamma = 20_000, profile.gamma
    expected = length * (gamma + 1) / (gamma + 2)
    assert averaged(profile, [float(s) for s in range(1, length + 1)]) == pytest.approx(
        expected, rel=1e-3
    )


@pytest.mark.parametrize(("relative_std", "gamma"), [(0.05, 16.97), (0.10, 6.94), (0.25, 0.0)])
def test_gamma_has_the_published_values(relative_std: float, gamma: float) -> None:
    """Karras et al. 2024 (EDM2), section 3.1: sigma_rel = 0.05 and 0.10."""
    if gamma:
        assert gamma_of_relative_std(relative_std) == pytest.approx(gamma, abs=0.01)
    else:
        g = gamma_of_relative_std(relative_std)
        assert (g + 1) / ((g + 2) ** 2 * (g + 3)) == pytest.approx(relative_std**2)


def test_using_the_average_gives_the_own_weights_back() -> None:
    module = torch.nn.BatchNorm1d(2)
    average = AveragedWeights(module, PowerAverage())
    before = {name: t.clone() for name, t in module.state_dict().items()}
    average.tensors["weight"].fill_(7.0)
    with average.in_use():
        assert module.weight.tolist() == [7.0, 7.0]
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    assert average.tensors["weight"].tolist() == [7.0, 7.0]
