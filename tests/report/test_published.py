"""The published results of the project load, and come out as they went in."""

import json
from pathlib import Path
from typing import Any

import pytest

from sfumato.runs.result_files import read_results, to_plain

PUBLISHED = Path(__file__).parents[2] / "docs" / "results"


def is_study(path: Path) -> bool:
    return "arms" in json.loads(path.read_text())


STUDIES = [path for path in sorted(PUBLISHED.glob("*/results.json")) if is_study(path)]


def test_there_are_published_studies() -> None:
    assert len(STUDIES) >= 8


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_a_published_study_loads_without_losing_a_number(path: Path) -> None:
    assert missing(json.loads(path.read_text()), to_plain(read_results(path.parent))) == []


def missing(old: Any, new: Any, at: str = "") -> list[str]:
    """Keys of `old` whose value in `new` is another or gone."""
    if isinstance(old, dict):
        return [
            lost
            for key, value in old.items()
            for lost in (missing(value, new[key], f"{at}{key}.") if key in new else [f"{at}{key}"])
        ]
    if isinstance(old, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return [lost for k, (a, b) in enumerate(pairs) for lost in missing(a, b, f"{at}{k}.")]
    return [] if old == new else [at]
