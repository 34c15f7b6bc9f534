"""The result in words follows from the verdicts, and says no more than they do."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from report.fixture import ARMS, FLOOR, FRECHET, results, write_study
from sfumato.cli import main
from sfumato.core.errors import RunError
from sfumato.core.numbers import duration, number, short_count
from sfumato.report import write_report
from sfumato.report.html import to_csv
from sfumato.report.summary import best_arm, ratio_to_floor, summarize
from sfumato.report.terminal import aligned, print_run, to_text
from sfumato.runs.result_files import to_record
from sfumato.runs.results import MetricColumn, Results, ScoreRecord


def _with(verdicts: list[tuple[str, str, str]], arms: int = 3) -> Results:
    content = results()
    content["arms"] = content["arms"][:arms]
    content["verdicts"] = [
        {"metric": "frechet_distance", "a": a, "b": b, "verdict": verdict}
        for a, verdict, b in verdicts
    ]
    return to_record(Results, content, "results")


LINEAR, COSINE, DCGAN = ARMS


@pytest.mark.parametrize(
    ("verdicts", "best", "words"),
    [
        (
            [(LINEAR, "worse", COSINE), (LINEAR, "better", DCGAN), (COSINE, "better", DCGAN)],
            COSINE,
            "“ddpm-cosine” is best: its Fréchet distance of 7.51 (1.7 × floor) is shown to be "
            "lower than that of every other arm",
        ),
        (
            [(LINEAR, "not shown", COSINE), (LINEAR, "better", DCGAN), (COSINE, "better", DCGAN)],
            None,
            "“ddpm-cosine” (7.51) and “ddpm-linear” (8.13) lead, and which of the two is better is "
            "not shown; “dcgan” is shown to be worse than both",
        ),
        (
            [(LINEAR, "not shown", COSINE), (LINEAR, "not shown", DCGAN), (DCGAN, "worse", COSINE)],
            None,
            "are not shown to be worse than any other arm, and which of the two is better is not "
            "shown; “dcgan” is shown to be worse than at least one other arm",
        ),
        (
            [(LINEAR, "not shown", COSINE), (LINEAR, "not shown", DCGAN)],
            None,
            "No arm is shown to be better than another by its Fréchet distance",
        ),
        ([], None, "no verdict was computed: whether that is more than chance is not shown"),
    ],
)
def test_summary_says_what_the_verdicts_show(
    verdicts: list[tuple[str, str, str]], best: str | None, words: str
) -> None:
    checked = _with(verdicts)
    assert best_arm(checked, checked.metrics[0]) == best
    assert words in summarize(checked)


def test_a_single_arm_is_compared_with_nothing() -> None:
    text = summarize(_with([], arms=1))
    assert "One model was trained on the digits images (1,437 of them), until it had seen" in text
    assert "8.13 (95\u00a0% interval 7.42 to 8.83; 1.8 × floor). With one arm nothing is" in text
    assert "best" not in text


def test_numbers_keep_what_matters() -> None:
    values = [118.53, 8.1271, 0.96389, 12345.6, 0.00123, float("nan"), None, 0.0]
    assert [number(value) for value in values] == [
        "118.5", "8.13", "0.964", "12,346", "0.0012", "–", "–", "0.000",
    ]  # fmt: skip
    assert [duration(s) for s in (0.42, 64.4, 245, 12_000)] == [
        "0.4 s", "64 s", "4 min 05 s", "3 h 20 min",
    ]  # fmt: skip
    assert [short_count(n) for n in (950, 412_673, 1_248_001)] == ["950", "413 k", "1.25 M"]


def test_a_large_ratio_to_the_floor_is_a_plain_number() -> None:
    metric = MetricColumn(key="fd", label="FD", better="lower", floor=ScoreRecord(value=0.5))
    ratios = [ratio_to_floor(value, metric) for value in (0.6, 21.4, 51.9, 1234.0)]
    assert ratios == ["1.2 × floor", "43 × floor", "104 × floor", "2,468 × floor"]


def test_csv_keeps_every_digit() -> None:
    content = results(seeds=(0, 1))
    rows = list(csv.DictReader(io.StringIO(to_csv(to_record(Results, content, "results")))))
    assert [(row["arm"], row["seed"]) for row in rows] == [(a, s) for a in ARMS for s in "01"]
    for row, run in zip(rows, (run for arm in content["arms"] for run in arm["runs"]), strict=True):
        score: dict[str, Any] = run["scores"]["frechet_distance"]
        assert float(row["frechet_distance"]) == score["value"]
        assert float(row["frechet_distance_low"]) == score["low"]
        assert float(row["frechet_distance_floor"]) == FLOOR
        assert float(row["train_seconds"]) == run["train_seconds"]


def test_markdown_links_to_files_that_exist(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(links) == 2 + 4 + 3 + 2 + 6 + 8  # scores, grids, films, quality, losses, new
    assert all((tmp_path / link).is_file() for link in links)
    assert "| ddpm-cosine | 7.51 (6.81 to 8.22 · 1.7 × floor · floor + 3.11) |" in text
    assert "| *Floor (real images)* | 4.41 (3.99 to 4.82) |" in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    for table in tables:
        columns = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(set(columns)) == 1, table
    assert (tmp_path / "figures/scores-frechet_distance.svg").read_text().startswith("<svg xmlns=")


def test_a_published_report_has_all_it_links_to_and_nothing_else(tmp_path: Path) -> None:
    study, target = tmp_path / "study", tmp_path / "docs" / "demo"
    study.mkdir()
    write_study(study)
    assert main(["report", str(study), "--publish", str(target)]) == 0
    text = (target / "report.md").read_text()
    links = {target / link for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)}
    assert not any(link.suffix == ".webp" for link in links)
    files = {path for path in target.rglob("*") if path.is_file()}
    assert files == links | {
        target / f"{name}" for name in ("report.md", "results.json", "results.csv")
    }
    assert "## Quality during training" in text


def test_terminal_table_is_aligned() -> None:
    text = to_text(to_record(Results, results(), "results"), width=110)
    head, _, first = text.splitlines()[2:5]
    assert head.split("  ")[-1] == "NFE"
    for heading, value in (("Fréchet distance", "8.13"), ("× floor", "1.8"), ("NFE", "50")):
        end = head.index(heading) + len(heading)
        assert first[end - len(value) : end] == value
    for arm in ARMS:
        assert number(FRECHET[arm]) in text
    assert "Label accuracy:\n  ddpm-linear is not shown to differ from ddpm-cosine" in text


def test_narrow_terminal_gets_the_columns_below_one_another() -> None:
    content = results()
    content["verdicts"] = []
    wide, narrow = (to_text(to_record(Results, content, "results"), width) for width in (110, 60))
    assert max(map(len, narrow.splitlines())) <= 60
    assert (wide.count("dcgan  "), narrow.count("dcgan  ")) == (1, 2)
    assert sorted(re.findall(r"[\d.]{2,}", narrow)) == sorted(re.findall(r"[\d.]{2,}", wide))


def test_a_table_wraps_to_the_width_without_losing_a_word() -> None:
    rows = [["class", "label accuracy", "note"], ["a [red] cat :cat:", "0.750 (0.98)", "no floor"]]
    assert aligned(rows, last_left=True, width=60).splitlines() == [
        "class              label accuracy  note",
        "───────────────────────────────────────────",
        "a [red] cat :cat:    0.750 (0.98)  no floor",
    ]
    narrow = aligned(rows, last_left=True, width=24)
    assert max(map(len, narrow.splitlines())) <= 24
    assert sorted(re.sub(r"[\s─]", "", narrow)) == sorted(
        re.sub(r"\s", "", "".join(rows[0] + rows[1]))
    )


def test_terminal_tables_of_a_run_say_every_score_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score, floor = ({"value": v, "low": v - 1, "high": v + 1, "n": 360} for v in (5.25, 2.0))
    excess = {"floor": 2.0, "ratio": 2.625, "excess": 3.25, "low": 1.5, "high": 5.0}
    evaluation: dict[str, Any] = {
        "metrics": [{"key": "fd", "label": "Distance", "better": "lower", "floor": floor}],
        "scores": {"fd": score},
        "excess": {"fd": excess},
        "classes": {"cat": {"label_accuracy": {"value": 0.75, "n": 40}}},
        "class_floors": {},
        "class_histogram": {"cat": 38, "dog": 2},
        "copies": None,
        "warnings": ["too few"],
        "protocol": {
            "num_images": 360, "reference": "digits held-out", "reference_images": 1200,
            "features": "classifier",
        },
        "nfe": 50,
        "sample_seconds": 8.0,
    }  # fmt: skip
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "config.json").write_text('{"name": "mine"}')
    (tmp_path / "summary.json").write_text('{"train_seconds": 64.4, "images_per_second": 3100}')
    print_run(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "mine",
        "Training 64 s (3.1 k images/s) · NFE 50 (sampled in 8.0 s)",
        "360 samples against 1,200 images of digits held-out, features: classifier",
        "",
        "          score  95 % interval  floor  × floor  excess  95 % interval",
        "─────────────────────────────────────────────────────────────────────",
        "Distance   5.25   4.25 to 6.25   2.00     2.62    3.25   1.50 to 5.00",
        "",
        "class   N  Fréchet distance  floor  × floor  label accuracy",
        "───────────────────────────────────────────────────────────",
        "cat    40                 –      –        –           0.750",
        "",
        "classes as the judge sees them: cat 38, dog 2",
        "",
        "note: too few",
    ]
    evaluation["metrics"][0]["better"] = "up"
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(RunError, match=r"'metrics.0.better' is 'up'"):
        print_run(tmp_path)
