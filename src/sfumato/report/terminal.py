"""The results of a study, of a run, or of two sets of images as text for the terminal."""

import io
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

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
UNLIMITED = 10_000


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
    groups = [[names]]
    for column in rest:
        if len(groups[-1]) > 1 and _width(_layout([*groups[-1], column])) > width:
            groups.append([names])
        groups[-1].append(column)
    return [_layout(group, width) for group in groups]


def _columns(results: Results) -> list[list[str]]:
    """The names, then every column in which something is known: the heading and each row."""
    rows = [(row.name, row.cells) for row in arm_rows(results)]
    floor = floor_cells(results)
    if floor is not None:
        rows.append(("real images", floor))
    found = [["", *(name for name, _ in rows)]]
    for k, heading in enumerate(columns(results)):
        cells = [row[k] for _, row in rows]
        is_score = k < len(results.metrics)
        if any(cell.text not in ("", MISSING) for cell in cells):
            notes = [f"\n{cell.note}" if is_score and cell.note else "" for cell in cells]
            found.append([heading, *(c.text + n for c, n in zip(cells, notes, strict=True))])
        if any(cell.ratio for cell in cells):
            found.append(["× floor", *(cell.ratio.removesuffix(" × floor") for cell in cells)])
    return found


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _layout(group: Sequence[Sequence[str]], width: int = UNLIMITED) -> str:
    """Columns side by side, without rows of which nothing is known (the floor has no costs)."""
    heading, *rows = zip(*group, strict=True)
    return aligned([heading, *(row for row in rows if any(row[1:]))], width=width)


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


def aligned(
    rows: Sequence[Sequence[str]], last_left: bool = False, width: int | None = None
) -> str:
    """Columns under their headings: the first to the left, the others to the right.

    Args:
        rows: headings, then the cells of each row, which may have several lines.
        last_left: the last column is text.
        width: cells wrap to fit into it; that of the terminal if None, unlimited without one.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for k, heading in enumerate(rows[0]):
        left = k == 0 or (last_left and k == len(rows[0]) - 1)
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for row in rows[1:]:
        table.add_row(*row)
    return _rendered(table, width)


def protocol_lines(protocol: Mapping[str, Any]) -> str:
    """What the scores mean, a line for each part."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for key, value in protocol.items():
        table.add_row(key.replace("_", " "), str(value))
    return _rendered(table)


def _rendered(table: Table, width: int | None = None) -> str:
    """The table as plain text."""
    if width is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
    )
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
