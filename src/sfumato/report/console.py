"""The main table of a report, for the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from sfumato.report.results import load
from sfumato.report.rows import arm_rows, columns, floor_cells


def print_table(directory: Path) -> None:
    """Print the scores of a study or a run beside the floor, and the verdicts.

    Raises:
        RunError: the directory holds no results.
    """
    results = load(directory)
    table = Table(title=results.title or results.name, title_justify="left")
    table.add_column("arm")
    for column in columns(results):
        table.add_column(column, justify="right")
    for row in arm_rows(results):
        table.add_row(row.name, *(_text(cell.text, cell.notes) for cell in row.cells))
    floor = floor_cells(results)
    if floor:
        table.add_section()
        table.add_row("real images (floor)", *(_text(cell.text, cell.notes) for cell in floor))
    console = Console(highlight=False)
    console.print(table)
    for verdict in results.verdicts:
        console.print(verdict.text, markup=False)


def _text(text: str, notes: str) -> str:
    return f"{text}\n[dim]{notes}[/dim]" if notes else text
