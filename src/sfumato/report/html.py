"""write_report: the files of a study or a run become one page, and the same as Markdown and CSV."""

from pathlib import Path

import jinja2

from sfumato.core.errors import RunError
from sfumato.core.files import write_bytes
from sfumato.core.numbers import duration
from sfumato.report.figures import TEMPLATES, standalone
from sfumato.report.markdown import to_markdown
from sfumato.report.sections import COMPARED, SHRUNK
from sfumato.report.tables import to_csv
from sfumato.report.view import View, build
from sfumato.runs.result_files import read_results


def write_report(directory: Path) -> Path:
    """Write report.html, report.md with figures/*.svg, and results.csv into `directory`.

    The page is one file: pictures are inlined, nothing is requested from anywhere, and it can be
    read without its script.

    Args:
        directory: of a study (results.json), or of a single run, evaluated or not.
    Returns:
        The path of report.html.
    Raises:
        RunError: the directory holds no results, they cannot be understood, or the report cannot
            be written.
    """
    view = build(read_results(directory), directory)
    path = directory / "report.html"
    try:
        (directory / "figures").mkdir(exist_ok=True)
        for name, svg in view.figures:
            write_bytes(directory / "figures" / f"{name}.svg", standalone(svg).encode())
        write_bytes(directory / "report.md", to_markdown(view).encode())
        write_bytes(directory / "results.csv", to_csv(view.results).encode())
        write_bytes(path, to_html(view).encode())
    except OSError as error:
        raise RunError(
            f"cannot write the report into {directory}: {error.strerror}; "
            "make the directory writable or free some space"
        ) from None
    return path


def to_html(view: View) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["duration"] = duration
    return environment.get_template("report.html").render(
        view=view, results=view.results, shrunk_note=SHRUNK, compared_note=COMPARED
    )
