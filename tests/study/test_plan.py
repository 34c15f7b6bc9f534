"""One performance plan for all arms of a study."""

from pathlib import Path

import pytest

from sfumato.core.config import to_mapping
from sfumato.core.errors import ConfigError
from sfumato.core.files import write_json
from sfumato.speed.plan import REFERENCE, Plan
from sfumato.speed.plan_search import Candidate, Choice
from sfumato.study.launch import common_plan, with_common_plan
from sfumato.study.read import load_study
from sfumato.training.training_config import plan_of
from support.processes import silent

LOW, LAST = Plan(precision="bfloat16"), Plan(precision="bfloat16", layout="channels_last")
KERNELS = Plan(precision="bfloat16", layout="channels_last", kernels=True)

STUDY = """
factors = ["model", "training.precision"]
budget = { images = 64 }
[arms.a]
recipe = "digits-ddpm"
[arms.b]
recipe = "digits-ddpm"
[arms.exact]
recipe = "digits-ddpm"
training.precision = "float32"
"""


def choice(times: dict[Plan, float], *refused: Plan) -> Choice:
    found = [Candidate(plan=plan, seconds=seconds, error=0.0) for plan, seconds in times.items()]
    found += [Candidate(plan=plan, error=1.0, note="error above the tolerance") for plan in refused]
    return Choice(plan=min(times, key=times.__getitem__), source="timed", candidates=tuple(found))


def test_the_common_plan_is_the_quickest_on_the_whole_that_all_arms_can_take() -> None:
    one = choice({REFERENCE: 1.0, LOW: 0.5, LAST: 0.4})
    other = choice({REFERENCE: 9.0, LOW: 5.0, LAST: 8.0})
    assert common_plan([one, one]) == LAST
    assert common_plan([one, other]) == LOW  # 0.5 * 5 < 0.4 * 8
    assert common_plan([one, choice({REFERENCE: 9.0}, LOW, LAST)]) == REFERENCE
    # A network without use for kernels does not mind them.
    assert common_plan([one, choice({REFERENCE: 1.0, LOW: 0.9, KERNELS: 0.1})]) == KERNELS
    # An arm too short to choose.
    assert common_plan([one, Choice(plan=REFERENCE, source="only 8 steps")]) == REFERENCE


def test_all_arms_take_one_plan_and_a_study_that_goes_on_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(STUDY)
    study = load_study(str(path), [])
    timed = choice({REFERENCE: 1.0, LAST: 0.5})
    monkeypatch.setattr("sfumato.study.launch.choose_plan", lambda *_: timed)
    settled = with_common_plan(study, tmp_path, silent)
    plans = {name: plan_of(arm.training) for name, arm in settled.arms.items()}
    assert plans["a"] == plans["b"] == LAST
    assert plans["exact"] == Plan(layout="channels_last")  # what an arm fixes stays
    write_json(tmp_path / "study.json", to_mapping(settled))
    monkeypatch.setattr("sfumato.study.launch.choose_plan", lambda *_: choice({REFERENCE: 1.0}))
    assert with_common_plan(study, tmp_path, silent) == settled


def test_every_arm_tries_what_another_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels last is best for one and was never tried for the other, whose search stopped."""
    path = tmp_path / "mine.toml"
    path.write_text(STUDY.replace("images = 64", "images = 64_000"))
    study = load_study(str(path), [])
    found = {"a": choice({REFERENCE: 1e9, LOW: 8e8, LAST: 1e-9}), "b": choice({REFERENCE: 1e9})}
    monkeypatch.setattr(
        "sfumato.study.launch.choose_plan",
        lambda experiment, *_: found.get(experiment.name, choice({REFERENCE: 1e9})),
    )
    settled = with_common_plan(study, tmp_path, silent)
    assert {plan_of(arm.training).layout for arm in settled.arms.values()} == {"channels_last"}


def test_arms_with_different_plans_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(STUDY.replace(', "training.precision"', ""))
    expected = r"differ in training\.precision \('auto', 'float32'\), which is not in factors"
    with pytest.raises(ConfigError, match=expected):
        load_study(str(path), [])
