"""Results as plain text, for the terminal."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.report.numbers import MISSING
from sfumato.report.results import Results, of_evaluation, validated
from sfumato.report.rows import arm_rows, columns, floor_cells
from sfumato.report.summary import summarize

WIDTH = 96


def study_table(results: Mapping[str, Any]) -> str:
    """The table of a study, the result in plain words, and the verdicts.

    Args:
        results: the content of results.json.
    Raises:
        RunError: it cannot be understood.
    """
    checked = validated(results, "results")
    blocks = [_table(checked), textwrap.fill(summarize(checked), WIDTH)]
    for metric in checked.metrics:
        verdicts = [v for v in checked.verdicts if v.metric == metric.key and v.text]
        if verdicts:
            blocks.append("\n".join([f"{metric.label}:", *(f"  {v.text}" for v in verdicts)]))
    return "\n\n".join(blocks)


def evaluation_table(evaluation: Mapping[str, Any]) -> str:
    """The scores of one run, the floor beneath them.

    Args:
        evaluation: the content of evaluation.json.
    Raises:
        RunError: it cannot be understood.
    """
    return _table(validated(of_evaluation(evaluation), "evaluation"))


def _table(results: Results) -> str:
    rows = [(row.name, row.cells) for row in arm_rows(results)]
    floor = floor_cells(results)
    if floor is not None:
        rows.append(("real images", floor))
    blocks = [[["", ""], *([name, ""] for name, _ in rows)]]
    for k, heading in enumerate(columns(results)):
        cells = [row[k] for _, row in rows]
        is_score = k < len(results.metrics)
        if any(cell.text not in ("", MISSING) for cell in cells):
            blocks.append([[heading, ""], *([c.text, c.note if is_score else ""] for c in cells)])
        if any(cell.ratio for cell in cells):
            blocks.append(
                [["× floor", ""], *([c.ratio.removesuffix(" × floor"), ""] for c in cells)]
            )
    lines = [[cell[line] for cell in row] for row in zip(*blocks, strict=True) for line in (0, 1)]
    return "\n".join(_align([line for line in lines if any(line)]))


def _align(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first to the left and the others to the right."""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    texts = [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return [texts[0], "─" * max(map(len, texts)), *texts[1:]]
