"""report.md: the report for a README. Pictures are linked, paths are relative to the report."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from sfumato.report.inline_pictures import Development, Sample
from sfumato.report.rows import Cell, Row
from sfumato.report.sections import COMPARED, SHRUNK
from sfumato.report.view import View


def to_markdown(view: View) -> str:
    """The page as GitHub-flavoured Markdown."""
    blocks = [f"# {_plain(view.title)}", _plain(view.results.description), _plain(view.summary)]
    blocks.append(_plain(view.status))
    blocks.append(_table(["Arm", *view.columns], [*_rows(view.rows), *_floor(view)]))
    blocks += [_image(f"Scores ({name})", f"figures/{name}.svg") for name, _ in view.score_figures]
    if view.diverged:
        blocks += ["**Diverged**", _list(view.diverged)]
    blocks += _published(view)
    for metric, verdicts in view.verdicts:
        lines = [f"- {_plain(v.text or f'{v.a} against {v.b}: {v.verdict}')}" for v in verdicts]
        blocks += [f"**{_plain(metric.label)}**", "\n".join(lines)]
    if view.run_rows:
        columns = [*(metric.label for metric in view.results.metrics), "Training", "Images seen"]
        blocks += ["## Every run", _table(["Run", *columns], _rows(view.run_rows))]
    if view.samples:
        noise = "All arms start from the same noise." if len(view.rows) > 1 else ""
        blocks += ["## Samples", noise, _gallery(view.samples)]
    if view.compared:
        blocks += ["## Image by image", COMPARED, _list(view.compared)]
        blocks.append(_gallery(view.compared_samples))
    if view.walks:
        blocks += ["## Interpolations", _gallery(view.walks)]
    if view.copies:
        lines = [
            f"- {_plain(name)}: {_plain(line)}" for name, found in view.copies for line in found
        ]
        blocks += ["## Copies and variety", "\n".join(lines)]
        blocks += [_gallery(view.copy_samples)] if view.copy_samples else []
    for name, rows in view.classes:
        cells = [[_plain(cell) for cell in row] for row in rows[1:]]
        blocks += [f"### Every class: {_plain(name)}", _table(rows[0], cells)]
    films = [film for film in view.films if film.film.path]
    if films:
        blocks += ["## Samples during training", _gallery(films)]
    for heading, groups in (
        ("## Quality during training", view.quality_figures),
        ("## Losses", view.loss_figures),
    ):
        for index, (title, figures) in enumerate(groups):
            images = [_image(f"{title} ({name})", f"figures/{name}.svg") for name, _ in figures]
            blocks += [heading if index == 0 else "", f"### {_plain(title)}", "\n".join(images)]
    if view.level_figures:
        images = [_image("Loss by noise level", f"figures/{n}.svg") for n, _ in view.level_figures]
        blocks += ["## Loss by noise level", *images]
    if view.fronts:
        images = [_image(line, f"figures/{name}.svg") for (name, _), line in view.fronts]
        lines = [line for _, line in view.fronts]
        blocks += ["## What quality costs", _list(lines), "\n".join(images)]
    if view.sampler_figures:
        images = [_image("Distance against NFE", f"figures/{name}.svg")
                  for name, _ in view.sampler_figures]  # fmt: skip
        blocks += ["## Number of sampling steps", *images]
    if view.warnings:
        blocks += ["## Warnings", "\n".join(f"- {_plain(text)}" for text in view.warnings)]
    if view.differences:
        rows = [[f"`{key}`", *map(_plain, values)] for key, values in view.differences]
        names = [arm.name for arm in view.results.arms]
        blocks += ["## What differs", _table(["Setting", *names], rows)]
    if view.results.shrunk:
        blocks += [f"## What the preset {_plain(view.results.preset)} changed"]
        blocks.append(_list(view.results.shrunk))
    for heading, values in (
        ("## Protocol", view.protocol),
        ("## Data", view.data),
        ("## Machine and versions", view.machine),
    ):
        if values:
            rows = [[key.replace("_", " "), _plain(value)] for key, value in values.items()]
            blocks += [heading, _table(["", ""], rows)]
    if view.results.commands:
        blocks += ["## To reproduce", "```sh\n" + "\n".join(view.results.commands) + "\n```"]
    terms = "\n".join(f"- **{term}**: {meaning}" for term, meaning in view.terms)
    blocks += ["## Terms", terms]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _published(view: View) -> list[str]:
    """Claims and figures of the literature beside ours."""
    published = view.results.published
    if published is None:
        return []
    blocks = ["## Published", f"Source: {_plain(published.source)}."]
    if view.results.shrunk:
        blocks.append(SHRUNK)
    if published.claims:
        blocks.append(_list(published.claims))
    if view.published:
        heading, *rows = view.published
        blocks.append(_table(heading, [[_plain(cell) for cell in row] for row in rows]))
    return blocks


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _rows(rows: Sequence[Row]) -> list[list[str]]:
    return [
        [f"**{_plain(row.name)}** (best)" if row.best else _plain(row.name), *map(_cell, row.cells)]
        for row in rows
    ]


def _floor(view: View) -> list[list[str]]:
    return [["*Floor (real images)*", *map(_cell, view.floor)]] if view.floor else []


def _cell(cell: Cell) -> str:
    return f"{cell.text} ({cell.notes})" if cell.notes else cell.text


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---"] + ["---:"] * (len(header) - 1)
    lines = [map(_plain, header), ruler, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _gallery(samples: Sequence[Sample | Development]) -> str:
    pictures = []
    for sample in samples:
        source = sample.film if isinstance(sample, Development) else sample.picture
        pictures.append(_image(sample.alt, PurePosixPath(source.path).as_posix()))
    return _table([sample.name for sample in samples], [pictures])


def _image(alt: str, path: str) -> str:
    return f"![{_plain(alt)}]({path.replace(' ', '%20')})"


def _plain(text: str) -> str:
    """Text that Markdown takes literally, on one line."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
