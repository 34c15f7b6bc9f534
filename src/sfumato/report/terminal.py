"""The results of a study, of a run, or of two sets of images as text for the terminal."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.core.numbers import MISSING, interval, number
from sfumato.report.rows import arm_rows, columns, floor_cells
from sfumato.report.sections import class_rows, copies_lines, published_rows
from sfumato.report.summary import summarize
from sfumato.runs.result_files import read_record, read_results
from sfumato.runs.results import (
    CopiesRecord,
    EvaluationRecord,
    Results,
)

WIDTH = 100
Column = list[tuple[str, str]]
"""For the heading and then each row: the text, and the small print on the line below."""


def print_table(directory: Path) -> None:
    """Print the scores beside the floor, the result in plain words, and the verdicts.

    Raises:
        RunError: the directory holds no results, or they cannot be understood.
    """
    print(to_text(read_results(directory), shutil.get_terminal_size((100, 24)).columns))


def print_run(directory: Path) -> None:
    """Print what `evaluate RUN` found: scores beside their floors, classes, copies, notes.

    Raises:
        RunError: the run has no evaluation.json, or it cannot be understood.
    """
    evaluation = read_record(EvaluationRecord, directory / "evaluation.json")
    print(run_text(read_results(directory), evaluation, directory))


def run_text(results: Results, evaluation: EvaluationRecord, directory: Path) -> str:
    """A scored run: its name, its costs, then every score once."""
    protocol = evaluation.protocol
    heading = (
        f"{results.name}\n{_costs(results)}\n"
        f"{protocol['num_images']:,} samples against {protocol['reference_images']:,} images of "
        f"{protocol['reference']}, features: {protocol['features']}"
    )
    blocks = [heading, score_table(evaluation)]
    if evaluation.classes:
        blocks.append(class_table(evaluation))
    if evaluation.class_histogram:
        blocks.append(histogram_text(evaluation.class_histogram))
    if evaluation.copies:
        blocks.append(copies_text(evaluation.copies, directory / "memorization.png"))
    blocks += [f"note: {warning}" for warning in evaluation.warnings]
    return "\n\n".join(blocks)


def _costs(results: Results) -> str:
    """The columns of the table that are no scores, in one line."""
    first = len(results.metrics)
    (row,) = arm_rows(results)
    costs = zip(columns(results)[first:], row.cells[first:], strict=True)
    return " · ".join(
        f"{heading} {cell.text}" + (f" ({cell.note})" if cell.note else "")
        for heading, cell in costs
        if cell.text != MISSING
    )


def to_text(results: Results, width: int) -> str:
    """Table, summary and verdicts; columns that do not fit into `width` follow below."""
    blocks = [results.title or results.name, *_tables(results, width)]
    blocks.append(textwrap.fill(summarize(results), min(width, 100)))
    for metric in results.metrics:
        verdicts = [v for v in results.verdicts if v.metric == metric.key and v.text]
        if verdicts:
            blocks.append("\n".join([f"{metric.label}:", *(f"  {v.text}" for v in verdicts)]))
    blocks += _published(results, min(width, 100))
    if results.diverged:
        blocks.append("\n".join(f"diverged: {f.arm}, seed {f.seed}" for f in results.diverged))
    return "\n\n".join(blocks)


def _published(results: Results, width: int) -> list[str]:
    """What the literature says, beside what was found; lines that wrap."""
    if results.published is None:
        return []
    lines = [f"published ({results.published.source}):"]
    lines += [f"  {claim}" for claim in results.published.claims]
    for what, value, arm, ours, reach, floor in published_rows(results)[1:]:
        here = [ours, f"({reach})" if reach else "", f"floor {floor}" if floor != MISSING else ""]
        beside = f"; {arm} here {' '.join(part for part in here if part)}"
        lines.append(f"  {what}: {value}{beside if ours != MISSING else ''}")
    wrapped = [textwrap.fill(line, width, subsequent_indent="    ") for line in lines]
    return ["\n".join(wrapped)]


def _tables(results: Results, width: int) -> list[str]:
    names, *rest = _columns(results)
    groups, used = [[names]], _width(names)
    for column in rest:
        used += 2 + _width(column)
        if used > width and len(groups[-1]) > 1:
            groups.append([names])
            used = _width(names) + 2 + _width(column)
        groups[-1].append(column)
    return [_layout(group) for group in groups]


def _columns(results: Results) -> list[Column]:
    """The names, then every column in which something is known."""
    rows = [(row.name, row.cells) for row in arm_rows(results)]
    floor = floor_cells(results)
    if floor is not None:
        rows.append(("real images", floor))
    found: list[Column] = [[("", ""), *((name, "") for name, _ in rows)]]
    for k, heading in enumerate(columns(results)):
        cells = [row[k] for _, row in rows]
        is_score = k < len(results.metrics)
        if any(cell.text not in ("", MISSING) for cell in cells):
            notes = [cell.note if is_score else "" for cell in cells]
            texts = [cell.text for cell in cells]
            found.append([(heading, ""), *zip(texts, notes, strict=True)])
        if any(cell.ratio for cell in cells):
            ratios = [(cell.ratio.removesuffix(" × floor"), "") for cell in cells]
            found.append([("× floor", ""), *ratios])
    return found


def _width(column: Column) -> int:
    return max(len(part) for cell in column for part in cell)


def _layout(group: Sequence[Column]) -> str:
    """The names to the left and the numbers to the right of their columns."""
    widths = [_width(column) for column in group]
    lines = []
    for row in zip(*group, strict=True):
        if not any(text for text, _ in row[1:]):
            continue  # the floor has no costs
        for line in (0, 1):
            parts = [cell[line] for cell in row]
            if any(parts):
                padded = [p.rjust(w) for p, w in zip(parts, widths, strict=True)]
                lines.append("  ".join([parts[0].ljust(widths[0]), *padded[1:]]).rstrip())
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])


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


def histogram_text(counts: Mapping[str, int]) -> str:
    """How many of the images the judge takes for each class, in a terminal's width."""
    seen = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return textwrap.fill(f"classes as the judge sees them: {seen}", WIDTH, subsequent_indent="  ")


def copies_text(copies: CopiesRecord, picture: Path) -> str:
    """`copies_lines` as text that fits into a terminal, and where the suspects can be seen."""
    lines = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in copies_lines(copies)]
    if count := len(copies.pairs):
        lines.append(
            f"{count:,} pairs of suspect and nearest training image, the first in {picture}"
        )
    return "\n".join(lines)


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


def protocol_lines(protocol: Mapping[str, Any]) -> str:
    """What the scores mean, a line for each part."""
    width = max(len(key) for key in protocol)
    return "\n".join(
        f"{key.replace('_', ' ').ljust(width)}  {value}" for key, value in protocol.items()
    )
