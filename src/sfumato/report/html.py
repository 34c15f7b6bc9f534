"""The report of a study or a run: one page, the same as Markdown and CSV, and a copy to publish."""

import csv
import io
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import jinja2

from sfumato.core.errors import RunError
from sfumato.core.files import write_bytes
from sfumato.core.numbers import duration
from sfumato.report.figures import TEMPLATES, standalone
from sfumato.report.markdown import to_markdown
from sfumato.report.sections import COMPARED, SHRUNK
from sfumato.report.view import View, build
from sfumato.runs.result_files import read_results
from sfumato.runs.results import Results

LINK = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
FILES = ("report.md", "results.json", "results.csv")


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


def to_csv(results: Results) -> str:
    """Scores with bounds, costs, and the floor of every metric."""
    header = ["arm", "seed", "parameters", "nfe", "images_seen", "train_seconds", "sample_seconds"]
    for metric in results.metrics:
        header += [metric.key, f"{metric.key}_low", f"{metric.key}_high", f"{metric.key}_floor"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for arm in results.arms:
        for run in arm.runs:
            row = [arm.name, run.seed, arm.parameters, arm.nfe]
            row += [run.images_seen, run.train_seconds, run.sample_seconds]
            for metric in results.metrics:
                score, floor = run.scores.get(metric.key), metric.floor
                row += [score.value, score.low, score.high] if score else [None] * 3
                row.append(floor.value if floor else None)
            writer.writerow(row)
    return text.getvalue()


def publish(directory: Path, target: Path, animations: bool = False) -> Path:
    """Write the report of `directory`, and copy what its Markdown needs to `target`.

    Args:
        directory: of a study or a run.
        target: made if it does not exist; files of the same names are replaced.
        animations: copy animations too, which are the largest files.
    Returns:
        The path of the report in `target`.
    Raises:
        RunError: as `write_report`; or `target` cannot be written.
    """
    write_report(directory)
    text = (directory / "report.md").read_text(encoding="utf-8")
    if not animations:
        text = re.sub(r"\n## Samples during training\n\n\|.*\n\|.*\n\|.*\n", "", text)
    linked = [unquote(link) for link in LINK.findall(text)]
    try:
        for name in (*FILES, *linked):
            if (directory / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(directory / name, target / name)
        (target / "report.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"cannot write {target}: {error.strerror}; choose a writable place"
        ) from None
    return target / "report.md"
