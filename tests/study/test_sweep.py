"""Sweeps: which arms they make, and what they refuse."""

import math
from pathlib import Path

import pytest

from sfumato.core.errors import ConfigError
from sfumato.core.noise import generator
from sfumato.study.read import load_study
from sfumato.study.sweep import Range, point_name, shortened
from study.studies import write

GRID = """
[sweep]
kind = "grid"
values = { "training.learning_rate" = [1e-4, 1e-3], "training.batch_size" = [16, 32] }
"""
RANDOM = """
[sweep]
kind = "random"
trials = 5
[sweep.ranges]
"training.learning_rate" = { low = 1e-5, high = 1e-2, log = true }
"model.network.channels" = { choices = [4, 8] }
"""


def test_a_grid_is_every_combination_for_every_arm(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GRID), [])
    assert len(study.arms) == 8
    arm = study.arms["dcgan,learning_rate=0.0001,batch_size=32"]
    assert (arm.training.learning_rate, arm.training.batch_size) == (1e-4, 32)
    assert arm.name == "dcgan,learning_rate=0.0001,batch_size=32"


def test_what_is_swept_over_is_a_factor_by_itself(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GRID.replace("training.batch_size", "data.fraction")
                             .replace("[16, 32]", "[0.5, 0.9]")), [])  # fmt: skip
    assert "data.fraction" in study.factors


def test_random_draws_are_those_of_the_seed_and_the_same_for_every_arm(tmp_path: Path) -> None:
    path = write(tmp_path, RANDOM)
    few, many = load_study(path, ["sweep.trials=3"]), load_study(path, [])
    assert set(few.arms) < set(many.arms)
    points = {name.removeprefix("ddpm").removeprefix("dcgan") for name in many.arms}
    assert len(points) == 5
    assert load_study(path, ["sweep.seed=1"]).arms.keys().isdisjoint(many.arms)


def test_a_logarithmic_range_is_even_in_the_logarithm() -> None:
    found = Range(low=1e-5, high=1e-1, log=True)
    values = [math.log10(float(found.draw(generator(0, k)))) for k in range(2000)]
    assert all(-5 <= value <= -1 for value in values)
    shares = [sum(-5 + k <= value < -4 + k for value in values) / 2000 for k in range(4)]
    assert shares == pytest.approx([0.25] * 4, abs=0.04)


def test_whole_numbers_come_equally_often() -> None:
    found = Range(low=2, high=4)
    values = [found.draw(generator(1, k)) for k in range(3000)]
    assert {type(value) for value in values} == {int}
    assert [values.count(k) / 3000 for k in (2, 3, 4)] == pytest.approx([1 / 3] * 3, abs=0.04)


def test_names_are_as_short_as_they_can_be() -> None:
    keys = ["training.learning_rate", "model.network.channels", "model.other.channels"]
    assert list(shortened(keys).values()) == ["learning_rate", "network.channels", "other.channels"]
    assert point_name("a", {"model.x": 2e-4, "data.source": "a/b"}) == "a,x=0.0002,source=a-b"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "random"', 'kind = "randon"', "did you mean 'random'"),
        ("trials = 5", "trials = 0", "sweep.trials. is 0; it should be at least 1"),
        ("low = 1e-5", "low = -1.0", "logarithmic range needs low > 0"),
        ("low = 1e-5, high = 1e-2, log = true", "low = 1.0", "low < high"),
        ("choices = [4, 8]", "choices = [4, 8], low = 1", "either choices, or low and high"),
        ("training.learning_rate", "training.learningrate", "did you mean 'learning_rate'"),
    ],
)
def test_a_bad_sweep_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write(tmp_path, RANDOM.replace(old, new)), [])
