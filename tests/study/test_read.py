"""Reading a study: presets, overrides, and messages that help."""

from pathlib import Path

import pytest

from sfumato.core.errors import ConfigError
from sfumato.study.read import load_study
from study.studies import TINY, write

PRESET = """
[published]
source = "somewhere"
figures = [{ what = "a GAN", value = 113.3, arm = "dcgan" }]

[presets.cpu]
hours = 0.5
without = ["dcgan"]
budget = { images = 32 }
seeds = [3, 4]

[presets.cpu.common.model.network]
channels = 4

[presets.cpu.arms.ddpm.training]
learning_rate = 1e-2
"""


def test_a_preset_changes_the_study_last_and_says_what_it_changed(tmp_path: Path) -> None:
    path = write(tmp_path, PRESET)
    study = load_study(path, [], "cpu")
    assert list(study.arms) == ["ddpm"]
    assert study.arms["ddpm"].model.network.channels == 4  # the arm's own 8 gives way
    assert study.budget.images == 32
    assert study.seeds == (3, 4)
    assert set(study.shrunk) == {
        "left out: the arm dcgan",
        "budget: images = 64 -> images = 32",
        "seeds: [0, 1] -> [3, 4]",
        "model.network.channels: 8 -> 4",
        "training.learning_rate: 0.004 -> 0.01",
    }
    assert study.command == f"sfumato study {path} --preset cpu"
    assert not load_study(path, []).shrunk


def test_an_override_has_the_last_word_over_a_preset(tmp_path: Path) -> None:
    path = write(tmp_path, PRESET)
    study = load_study(path, ["common.model.network.channels=12", "budget.images=48"], "cpu")
    assert study.arms["ddpm"].model.network.channels == 12
    assert study.budget.images == 48
    assert study.experiment("ddpm", 3).training.budget_images == 48


def test_published_figures_of_arms_that_are_left_out_stay(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, PRESET), [], "cpu")
    assert study.published is not None
    (figure,) = study.published.figures
    # with a metric and no arm it would be a figure of real images
    assert (figure.arm, figure.metric, figure.value) == (None, None, 113.3)


def test_the_protocol_is_that_of_all_arms(tmp_path: Path) -> None:
    study = load_study(write(tmp_path), ["evaluation.num_images=50"])
    assert [arm.evaluation.num_images for arm in study.arms.values()] == [50, 50]


@pytest.mark.parametrize(
    ("overrides", "preset", "message"),
    [
        ([], "gpu", "no preset 'gpu'; its presets: cpu"),
        (["factors=[evaluation]"], "", "evaluation cannot be a factor"),
        (["seeds=[1,1]"], "", "names a seed twice"),
        (["budget.steps=3"], "", "exactly one"),
        (
            ["compare=[['ddpm','dgan']]"],
            "",
            "compare names the arm 'dgan'; the arms are ddpm, dcgan",
        ),
        (["measure.walk=1"], "", "unknown key 'measure.walk'; did you mean 'walks'"),
        (["arms.dgan.training.seed=1"], "", "arm 'dgan' names no recipe"),
        (["arms.dcgan.recipe=digits-dcgn"], "", "there is no recipe 'digits-dcgn'"),
    ],
)
def test_mistakes_are_named(
    overrides: list[str], preset: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load_study(write(tmp_path, PRESET), overrides, preset)


def test_a_misspelled_key_of_a_preset_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, PRESET.replace("hours", "hour"))
    with pytest.raises(ConfigError, match=r"presets\.cpu has the unknown key 'hour'"):
        load_study(path, [], "cpu")


def test_an_arm_that_a_preset_invents_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, PRESET.replace("[presets.cpu.arms.ddpm", "[presets.cpu.arms.dppm"))
    with pytest.raises(ConfigError, match="names the arm 'dppm'; the arms are ddpm, dcgan"):
        load_study(path, [], "cpu")


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        load_study("demmo", [])


def test_an_arm_must_be_able_to_name_a_directory(tmp_path: Path) -> None:
    path = write(tmp_path, text=TINY.replace("[arms.ddpm]", '[arms."a/b"]'))
    with pytest.raises(ConfigError, match="cannot name a directory"):
        load_study(path, [])
