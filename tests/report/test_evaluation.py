"""The sections on classes and copies: known values in, the same values out, in every form."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from report.fixture import ARMS, results, write_study
from sfumato.report import write_report
from sfumato.report.sections import class_rows, copies_lines
from sfumato.report.terminal import class_table
from sfumato.runs.result_files import to_record
from sfumato.runs.results import CopiesRecord, EvaluationRecord


def estimate(value: float, n: int = 50) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": n}


EVALUATION: dict[str, Any] = {
    "metrics": [{"key": "frechet_distance", "label": "Fréchet distance", "better": "lower"}],
    "classes": {
        "cat": {
            "frechet_distance": estimate(6.0),
            "kernel_distance": estimate(0.02),
            "label_accuracy": estimate(0.9),
        },
        "<dog>": {"label_accuracy": estimate(0.5, n=4)},
    },
    "class_floors": {
        "cat": {
            "frechet_distance": estimate(4.0),
            "kernel_distance": estimate(0.001),
            "label_accuracy": estimate(0.95),
        },
    },
}
COPIES: dict[str, Any] = {
    "features": {
        "copies": {"value": 0.01, "high": 0.025},
        "held_out": {"value": 0.0, "high": 0.006},
        "threshold": 0.5,
        "median_ratio": 0.97,
    },
    "pixels": {
        "copies": {"value": 0.03, "high": 0.05},
        "held_out": {"value": 0.002, "high": 0.01},
        "threshold": 2.5,
        "median_ratio": 1.1,
    },
    "duplicates": {"value": 0.04, "high": 0.06},
    "real_duplicates": {"value": 0.0, "high": 0.006},
    "diversity": 0.88,
    "pairs": [[3, 7]],
}


def evaluation(**changes: Any) -> EvaluationRecord:
    return to_record(EvaluationRecord, EVALUATION | changes, "evaluation")


def rows_of(found: EvaluationRecord) -> list[list[str]]:
    return class_rows(found.classes, found.class_floors, found.metrics)


def test_a_class_stands_beside_its_own_floor() -> None:
    assert rows_of(evaluation()) == [
        ["class", "N", "Fréchet distance", "floor", "× floor", "kernel distance (floor)",
         "label accuracy (floor)"],
        ["cat", "50", "6.00", "4.00", "1.50", "0.020 (0.001)", "0.900 (0.950)"],
        ["<dog>", "4", "–", "–", "–", "–", "0.500"],
    ]  # fmt: skip
    assert rows_of(evaluation(class_floors={}))[0][-1] == "label accuracy"
    fid = EVALUATION["metrics"][0] | {"label": "FID"}
    assert rows_of(evaluation(metrics=[fid]))[0][2] == "FID"
    lines = class_table(evaluation()).splitlines()
    assert len({len(line) for line in lines[2:]}) == 1  # the numbers stand below one another


def test_copies_are_told_beside_held_out_images() -> None:
    assert [
        line.replace("\u00a0", " ")
        for line in copies_lines(to_record(CopiesRecord, COPIES, "copies"))
    ] == [
        "suspected copies of training images, by features: 1.0 % (up to 2.5 %); of held-out images "
        "0.0 % (up to 0.6 %); nearest training image at 0.97 times the distance of held-out images",
        "suspected copies of training images, by pixels: 3.0 % (up to 5.0 %); of held-out images "
        "0.2 % (up to 1.0 %); nearest training image at 1.10 times the distance of held-out images",
        "twins among the samples: 4.0 % (up to 6.0 %); among held-out images 0.0 % (up to 0.6 %)",
        "variety: 0.88 times that of held-out images",
    ]


def test_the_page_shows_classes_copies_and_the_pairs(tmp_path: Path) -> None:
    """In HTML, where a class may be called <dog>, and in Markdown; the picture is in the page."""
    write_study(tmp_path)
    content = results()
    run = content["arms"][0]["runs"][0]
    run |= {**EVALUATION, "copies": COPIES}
    (tmp_path / "results.json").write_text(json.dumps(content))
    pairs = np.full((12, 24, 3), 200, dtype=np.uint8)
    Image.fromarray(pairs).save(tmp_path / run["directory"] / "memorization.png")
    page = write_report(tmp_path).read_text()
    text = (tmp_path / "report.md").read_text()
    for words in (
        "0.020 (0.001)",
        "label accuracy (floor)",
        "variety: 0.88 times",
        "by pixels: 3.0",
    ):
        assert words in page.replace("\u00a0", " "), words
        assert words in text.replace("\u00a0", " "), words
    assert "<details open>" in page  # a single table by class need not be opened
    assert "&lt;dog&gt;" in page
    assert "<dog>" not in page
    assert f"Pairs: a sample of {ARMS[0]}" in page
    assert page.count('<div class="cards wide">') == 1  # else too small to be judged
    assert "pairs: sample, nearest training image" in page
    assert "memorization.png)" in text
