"""What a report shows, in the order in which it shows it; HTML and Markdown are both made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.core.numbers import MISSING
from sfumato.report import inline_pictures as pictures
from sfumato.report import sections
from sfumato.report.curves import (
    Figure,
    Group,
    front_figures,
    histories,
    level_figures,
    loss_figures,
    quality_figures,
    sampler_figures,
    watch_figures,
)
from sfumato.report.figures import score_figure
from sfumato.report.inline_pictures import Development, Sample
from sfumato.report.rows import Cell, Row, arm_rows, columns, floor_cells, run_rows
from sfumato.report.sections import class_rows, copies_lines
from sfumato.report.summary import summarize
from sfumato.runs.results import ArmRecord, MetricColumn, Results, Verdict

TERMS = {
    "distance": "How far the distribution of the samples is from that of real images, both seen "
    "through a feature network. Lower is better.",
    "Label accuracy": "The share of samples that a separate classifier recognises as the class "
    "they were asked to show.",
    "Floor": "The score of real images that the models never saw, at the same N. A perfect model "
    "would reach it. “Floor + x” gives the excess x over it.",
    "Interval": "Samples are drawn by chance, and the score varies with them. A range made this "
    "way holds its average over many draws 19 times out of 20.",
    "Not shown": "The difference is no larger than chance explains. It does not mean that the two "
    "are equal.",
    "NFE": "Network evaluations for one image: how often the network runs. It decides how long "
    "sampling takes.",
}


@dataclass(frozen=True)
class View:
    """Everything on the page."""

    results: Results
    title: str
    summary: str
    columns: list[str]
    rows: list[Row]
    floor: list[Cell] | None
    run_rows: list[Row]
    terms: list[tuple[str, str]]
    score_figures: list[Figure]
    verdicts: list[tuple[MetricColumn, list[Verdict]]]
    samples: list[Sample]
    more_samples: list[Sample]
    copies: list[tuple[str, list[str]]]
    copy_samples: list[Sample]
    classes: list[tuple[str, list[list[str]]]]
    films: list[Development]
    loss_figures: list[Group]
    level_figures: list[Figure]
    quality_figures: list[Group]
    sampler_figures: list[Figure]
    fronts: list[tuple[Figure, str]]
    published: list[list[str]]
    compared: list[str]
    compared_samples: list[Sample]
    walks: list[Sample]
    status: str
    diverged: list[str]
    warnings: list[str]
    differences: list[tuple[str, list[str]]]
    protocol: dict[str, str]
    data: dict[str, str]
    machine: dict[str, str]

    @property
    def figures(self) -> list[Figure]:
        """All figures of the page."""
        groups = [*self.quality_figures, *self.loss_figures]
        fronts = [figure for figure, _ in self.fronts]
        single = [*self.score_figures, *fronts, *self.sampler_figures]
        return [
            *single,
            *(figure for _, figures in groups for figure in figures),
            *self.level_figures,
        ]


def build(results: Results, directory: Path) -> View:
    """Read the pictures and histories that belong to the results and lay everything out."""
    logs = histories(results, directory)
    scores = [(f"scores-{m.key}", score_figure(results, m)) for m in results.metrics]
    several_runs = any(len(arm.runs) > 1 for arm in results.arms)
    samples, more = pictures.samples_of(results, directory)
    return View(
        results=results,
        title=results.title or results.name,
        summary=summarize(results),
        columns=columns(results),
        rows=arm_rows(results),
        floor=floor_cells(results),
        run_rows=run_rows(results) if several_runs else [],
        terms=_terms(results),
        score_figures=[figure for figure in scores if figure[1]],
        verdicts=_verdicts(results),
        samples=samples,
        more_samples=more,
        copies=_copies(results),
        copy_samples=pictures.copy_samples(results, directory),
        classes=_classes(results),
        films=pictures.films(results, directory),
        loss_figures=[*loss_figures(logs), *watch_figures(logs)],
        level_figures=level_figures(logs),
        quality_figures=quality_figures(results, logs),
        sampler_figures=sampler_figures(results),
        fronts=front_figures(results),
        published=sections.published_rows(results),
        compared=sections.compared_lines(results),
        compared_samples=pictures.compared_samples(results, directory),
        walks=pictures.walk_samples(results, directory),
        status=sections.status(results),
        diverged=[f"{f.arm}, seed {f.seed}: {f.reason}" for f in results.diverged],
        warnings=_warnings(results),
        differences=_differences(results.arms),
        protocol=flatten(results.protocol),
        data=flatten({k: v for k, v in results.data.items() if not k.startswith("grid")}),
        machine=flatten(results.machine),
    )


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys and text, for tables."""
    flat: dict[str, str] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            flat[f"{prefix}{key}"] = ", ".join(str(item) for item in value)
        elif isinstance(value, float):
            flat[f"{prefix}{key}"] = f"{value:.12g}"  # 3 * 1e-4 is 0.0003 to people
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _verdicts(results: Results) -> list[tuple[MetricColumn, list[Verdict]]]:
    groups = [
        (metric, [verdict for verdict in results.verdicts if verdict.metric == metric.key])
        for metric in results.metrics
    ]
    return [group for group in groups if group[1]]


def _copies(results: Results) -> list[tuple[str, list[str]]]:
    """Every run that was searched for copies, with what was found, in words."""
    several = any(len(arm.runs) > 1 for arm in results.arms)
    return [
        (f"{arm.name}, seed {run.seed}" if several else arm.name, copies_lines(run.copies))
        for arm in results.arms
        for run in arm.runs
        if run.copies
    ]


def _classes(results: Results) -> list[tuple[str, list[list[str]]]]:
    """For every arm its first run class by class: heading and lines of a table."""
    found = []
    for arm in results.arms:
        if arm.runs and arm.runs[0].classes:
            run = arm.runs[0]
            found.append((arm.name, class_rows(run.classes, run.class_floors, results.metrics)))
    return found


def _warnings(results: Results) -> list[str]:
    several = len(results.arms) > 1
    return [
        f"{arm.name}, seed {run.seed}: {warning}" if several else warning
        for arm in results.arms
        for run in arm.runs
        for warning in run.warnings
    ]


def _differences(arms: Sequence[ArmRecord]) -> list[tuple[str, list[str]]]:
    """The settings in which arms differ, with the value of every arm."""
    flat = [flatten(arm.config) for arm in arms]
    keys = {key: None for config in flat for key in config}
    return [(key, [config.get(key, MISSING) for config in flat]) for key in keys]


def _terms(results: Results) -> list[tuple[str, str]]:
    """Short explanations of the words that this report uses."""
    distance = results.metric("frechet_distance")
    floors = any(metric.floor for metric in results.metrics)
    needed = {
        "distance": distance is not None,
        "Label accuracy": results.metric("label_accuracy") is not None,
        "Floor": floors,
        "Interval": bool(results.metrics),
        "Not shown": bool(results.verdicts),
        "NFE": True,
    }
    names = {"distance": distance.label} if distance else {}
    return [(names.get(term, term), TERMS[term]) for term, used in needed.items() if used]
