"""How many functions of the package `evaluate A B` enters before the first score."""

import sys
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType

import numpy as np
import pytest

import sfumato
import sfumato.cli.evaluate
import sfumato.experiment.score_run  # what is run on import is not counted
from sfumato.evaluation import given_images
from sfumato.metrics.features import FeatureNetwork, ImageFeatures
from sfumato.metrics.pretrained import EfficientNetFeatures

MOST = 102
SOURCE = str(Path(sfumato.__file__).parent)


class FirstScoreError(Exception):
    """Ends the command at the first metric."""


def test_a_comparison_passes_few_functions_before_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.cli import main

    def stop(metrics: object, fake: ImageFeatures, real: ImageFeatures) -> None:
        raise FirstScoreError

    network = FeatureNetwork("mean", "0" * 64, 3, "none", lambda x: x.float().mean((2, 3)))
    monkeypatch.setattr(EfficientNetFeatures, "build", lambda self, cache: network)
    monkeypatch.setattr(given_images, "scores_of", stop)
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    random = np.random.Generator(np.random.PCG64(0))
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", x=random.integers(0, 256, (30, 16, 16, 3), np.uint8))
    entered: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if (
            event == "call"
            and code.co_name[0] != "<"
            and code.co_filename.startswith(SOURCE)
            and code.co_flags & CO_OPTIMIZED
        ):
            entered.add(code)

    files = [str(tmp_path / f"{name}.npz") for name in "ab"]
    sys.setprofile(note)
    try:
        with pytest.raises(FirstScoreError):
            main(["evaluate", *files, "--features", "efficientnet-lite0"])
    finally:
        sys.setprofile(None)
    names = sorted(f"{Path(c.co_filename).name}:{c.co_qualname}" for c in entered)
    print(len(names), *names, sep="\n")
    assert len(names) <= MOST
