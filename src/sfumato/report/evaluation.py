"""Scores beside their floors as plain text, for the terminal."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.core.numbers import MISSING, interval, number
from sfumato.runs.results import (
    CopiesRecord,
    EvaluationRecord,
    MetricColumn,
    ScoreRecord,
    Scores,
)

CLASS_HEADINGS = {"frechet_infinity": "N → ∞"}
WIDTH = 100


def score_table(evaluation: EvaluationRecord) -> str:
    """A line for each metric: score, interval, floor, score / floor and excess."""
    labels = {metric.key: metric.label for metric in evaluation.metrics}
    header = ["", "score", "95 % interval", "floor", "× floor", "excess", "95 % interval"]
    rows = []
    for key, score in evaluation.scores.items():
        excess = evaluation.excess.get(key)
        beside = [MISSING] * 4
        if excess is not None:
            beside = [number(value) for value in (excess.floor, excess.ratio, excess.excess)]
            beside.append(interval(excess.low, excess.high))
        reach = interval(score.low, score.high)
        rows.append([labels.get(key, key), number(score.value), reach, *beside])
    return aligned([header, *rows])


def class_table(evaluation: EvaluationRecord) -> str:
    """`class_rows` as text."""
    return aligned(class_rows(evaluation.classes, evaluation.class_floors, evaluation.metrics))


def class_rows(
    classes: Mapping[str, Scores],
    class_floors: Mapping[str, Scores],
    metrics: Sequence[MetricColumn],
) -> list[list[str]]:
    """A heading, and a line for each class: its distance beside its own floor, then every other
    metric that was asked for, the floor of the class in brackets.
    """
    keys = dict.fromkeys(key for scores in classes.values() for key in scores)
    others = [key for key in keys if key != "frechet_distance"]
    beside = {key for floors in class_floors.values() for key in floors}
    headings = [
        CLASS_HEADINGS.get(key, key.replace("_", " ")) + (" (floor)" if key in beside else "")
        for key in others
    ]
    labels = {metric.key: metric.label for metric in metrics}
    distance = labels.get("frechet_distance", "Fréchet distance")
    rows = [["class", "N", distance, "floor", "× floor", *headings]]
    for name, scores in classes.items():
        floors = class_floors.get(name, {})
        score, floor = scores.get("frechet_distance"), floors.get("frechet_distance")
        ratio = score.value / floor.value if score and floor and floor.value else None
        rows.append(
            [
                name,
                str(next(iter(scores.values())).n),
                number(score.value if score else None),
                number(floor.value if floor else None),
                number(ratio),
                *(_beside(scores.get(key), floors.get(key)) for key in others),
            ]
        )
    return rows


def histogram_text(counts: Mapping[str, int]) -> str:
    """How many of the images the judge takes for each class, in a terminal's width."""
    seen = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return textwrap.fill(f"classes as the judge sees them: {seen}", WIDTH, subsequent_indent="  ")


def _beside(score: ScoreRecord | None, floor: ScoreRecord | None) -> str:
    """A value with its floor in brackets."""
    if score is None:
        return MISSING
    return number(score.value) + (f" ({number(floor.value)})" if floor else "")


def copies_text(copies: CopiesRecord, picture: Path) -> str:
    """`copies_lines` as text that fits into a terminal, and where the suspects can be seen."""
    lines = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in copies_lines(copies)]
    if count := len(copies.pairs):
        lines.append(
            f"{count:,} pairs of suspect and nearest training image, the first in {picture}"
        )
    return "\n".join(lines)


def copies_lines(copies: CopiesRecord) -> list[str]:
    """Suspected copies, twins and variety in a few lines."""
    lines = []
    for kind, found in (("features", copies.features), ("pixels", copies.pixels)):
        lines.append(
            f"suspected copies of training images, by {kind}: {_share(found.copies)}; "
            f"of held-out images {_share(found.held_out)}; nearest training image at "
            f"{found.median_ratio:.2f} times the distance of held-out images"
        )
    lines.append(
        f"twins among the samples: {_share(copies.duplicates)}; among held-out images "
        f"{_share(copies.real_duplicates)}"
    )
    lines.append(f"variety: {copies.diversity:.2f} times that of held-out images")
    return lines


def floor_table(curve: Mapping[str, Any]) -> str:
    """A line for each N; says which points cannot come from disjoint sets."""
    rows = [["N", curve["metric"], "95 % interval", ""]]
    for point in curve["points"]:
        note = "" if point["disjoint"] else f"no floor: {point['shared']:,} images on both sides"
        distance = point["distance"]
        reach = interval(distance.get("low"), distance.get("high"))
        rows.append([f"{point['n']:,}", number(distance["value"]), reach, note])
    return aligned(rows, last_left=True)


def aligned(rows: Sequence[Sequence[str]], last_left: bool = False) -> str:
    """Columns under their headings: the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        if last_left:
            cells[-1] = row[-1]
        lines.append("  ".join(cells).rstrip())
    rule = "─" * max(len(line) for line in lines)
    return "\n".join([lines[0], rule, *lines[1:]])


def _share(share: ScoreRecord) -> str:
    """A percentage with the end of its interval; no line breaks between a number and its %."""
    upper = math.nan if share.high is None else share.high
    return f"{100 * share.value:.1f}\u00a0% (up to {100 * upper:.1f}\u00a0%)"


def protocol_lines(protocol: Mapping[str, Any]) -> str:
    """What the scores mean, a line for each part."""
    width = max(len(key) for key in protocol)
    return "\n".join(
        f"{key.replace('_', ' ').ljust(width)}  {value}" for key, value in protocol.items()
    )
