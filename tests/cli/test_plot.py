"""`sfumato plot`: pictures are written, nonsense is refused with the reason."""

from pathlib import Path

import pytest
from PIL import Image

from sfumato.cli import main

RECIPE = str(Path(__file__).parent / "tiny.toml")


def test_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "schedules", "linear_beta", "cosine", "sigmoid:temperature=0.5"]) == 0
    with Image.open("schedules.png") as picture:
        assert picture.format == "PNG"


def test_forward(tmp_path: Path) -> None:
    path = tmp_path / "forward.svg"
    arguments = ["-n", "2", "--times", "0,0.25,1", "-o", str(path)]
    assert main(["plot", "forward", RECIPE, *arguments, "model.schedule.kind=cosine"]) == 0
    assert path.read_text().count("<image") == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["schedules", "lineal_beta"], "did you mean 'linear_beta'"),
        (["schedules", "cosine", "-o", "x.jpg"], "cannot draw into 'x.jpg'"),
        (["forward", "digits-dcgan"], "has no noise schedule"),
        (["forward", RECIPE, "--times", "0.0001"], "no noise level at time 0.0001"),
        (["forward", RECIPE, "-n", "0"], "--num-images must be at least 1, got 0"),
    ],
)
def test_nonsense_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
