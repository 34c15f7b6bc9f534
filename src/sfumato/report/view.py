"""What a report shows, in the order in which it shows it; HTML and Markdown are both made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.report.curves import Figure, histories, loss_figures, quality_figures
from sfumato.report.figures import NUM_COLOURS, score_figure
from sfumato.report.pictures import Film, Picture, read_film, read_picture
from sfumato.report.results import Arm, Metric, Results, RunRecord, Verdict, flatten
from sfumato.report.summary import best_arm, summarize
from sfumato.report.text import (
    MISSING,
    count,
    duration,
    interval,
    number,
    ratio_to_floor,
    short_count,
    spread,
)


@dataclass(frozen=True)
class Cell:
    """A number of a table: what to read, what stands small beneath it, what to sort by."""

    text: str
    note: str = ""
    sort: float | None = None


@dataclass(frozen=True)
class Row:
    """A line of a table: an arm, or one of its runs."""

    name: str
    colour: int | None
    best: bool
    cells: list[Cell]


@dataclass(frozen=True)
class Sample:
    """A picture or an animation of one run, or of real images (colour None)."""

    name: str
    colour: int | None
    caption: str
    alt: str
    picture: Picture | None = None
    film: Film | None = None


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
    verdicts: list[tuple[Metric, list[Verdict]]]
    samples: list[Sample]
    more_samples: list[Sample]
    films: list[Sample]
    loss_figures: list[Figure]
    quality_figures: list[Figure]
    warnings: list[str]
    differences: list[tuple[str, list[str]]]
    protocol: dict[str, str]
    data: dict[str, str]
    machine: dict[str, str]


def build(results: Results, directory: Path) -> View:
    """Read the pictures and histories that belong to the results and lay everything out."""
    logs = histories(results, directory)
    scores = [(f"scores-{m.key}", score_figure(results, m)) for m in results.metrics]
    several_runs = any(len(arm.runs) > 1 for arm in results.arms)
    samples, more = _samples(results, directory)
    return View(
        results=results,
        title=results.title or results.name,
        summary=summarize(results),
        columns=[*(metric.label for metric in results.metrics),
                 "Training", "Parameters", "Images seen", "NFE"],
        rows=[_arm_row(results, arm, index) for index, arm in enumerate(results.arms)],
        floor=_floor_cells(results),
        run_rows=_run_rows(results) if several_runs else [],
        terms=_terms(results),
        score_figures=[figure for figure in scores if figure[1]],
        verdicts=_verdicts(results),
        samples=samples,
        more_samples=more,
        films=_films(results, directory),
        loss_figures=loss_figures(logs),
        quality_figures=quality_figures(results, logs),
        warnings=_warnings(results),
        differences=_differences(results.arms),
        protocol=flatten(results.protocol),
        data=flatten({k: v for k, v in results.data.items() if k != "grid"}),
        machine=flatten(results.machine),
    )  # fmt: skip


def _arm_row(results: Results, arm: Arm, index: int) -> Row:
    cells = [_score(arm, metric) for metric in results.metrics]
    seconds = [run.train_seconds for run in arm.runs if run.train_seconds is not None]
    seen = [run.images_seen for run in arm.runs if run.images_seen is not None]
    mean_seconds = sum(seconds) / len(seconds) if seconds else None
    rates = [run.images_per_second for run in arm.runs if run.images_per_second is not None]
    rate = f"{short_count(sum(rates) / len(rates))} images/s" if rates else ""
    cells += [
        Cell(duration(mean_seconds), rate, mean_seconds),
        Cell(short_count(arm.parameters), "", arm.parameters),
        Cell(count(max(seen, default=None)), "", max(seen, default=None)),
        Cell(count(arm.nfe), "", arm.nfe),
    ]
    best = bool(results.metrics) and best_arm(results, results.metrics[0]) == arm.name
    return Row(arm.name, index % NUM_COLOURS, best, cells)


def _score(arm: Arm, metric: Metric) -> Cell:
    mean = arm.mean(metric.key)
    notes = [spread(arm, metric.key), ratio_to_floor(mean, metric)]
    return Cell(number(mean), " · ".join(note for note in notes if note), mean)


def _floor_cells(results: Results) -> list[Cell] | None:
    floors = [metric.floor for metric in results.metrics]
    if not any(floors):
        return None
    cells = [Cell(number(f.value), interval(f)) if f else Cell(MISSING) for f in floors]
    return [*cells, *[Cell("")] * 4]


def _run_rows(results: Results) -> list[Row]:
    """A line for every training seed, with the interval of its own samples."""
    return [
        Row(f"{arm.name}, seed {run.seed}", index % NUM_COLOURS, False, _run_cells(results, run))
        for index, arm in enumerate(results.arms)
        for run in arm.runs
    ]


def _run_cells(results: Results, run: RunRecord) -> list[Cell]:
    scores = [run.scores.get(metric.key) for metric in results.metrics]
    cells = [Cell(number(s.value), interval(s)) if s else Cell(MISSING) for s in scores]
    return [*cells, Cell(duration(run.train_seconds)), Cell(count(run.images_seen))]


def _verdicts(results: Results) -> list[tuple[Metric, list[Verdict]]]:
    groups = [
        (metric, [verdict for verdict in results.verdicts if verdict.metric == metric.key])
        for metric in results.metrics
    ]
    return [group for group in groups if group[1]]


def _samples(results: Results, directory: Path) -> tuple[list[Sample], list[Sample]]:
    """The grids of the first seed with the real images before them, and those of other seeds."""
    rows = f"one class a row: {', '.join(results.class_names)}" if results.class_names else ""
    first, more = [], []
    real = read_picture(directory, results.data.get("grid"))
    if real is not None:
        alt = "Real held-out images" + (f", {rows}." if rows else ".")
        first.append(Sample("Real images", None, "held out from training", alt, real))
    for index, arm in enumerate(results.arms):
        for k, run in enumerate(arm.runs):
            picture = read_picture(directory, f"{run.directory}/grid.png")
            if picture is None:
                picture = _last_sample(directory, run.directory)
            if picture is None:
                continue
            alt = f"Samples of {arm.name}, seed {run.seed}" + (f", {rows}." if rows else ".")
            notes = [f"NFE {arm.nfe}" if arm.nfe else ""]
            notes.append(f"seed {run.seed}" if len(arm.runs) > 1 else "")
            caption = " · ".join(note for note in notes if note)
            sample = Sample(arm.name, index % NUM_COLOURS, caption, alt, picture)
            (first if k == 0 else more).append(sample)
    return first, more


def _last_sample(directory: Path, run: str) -> Picture | None:
    files = sorted(p for p in (directory / run).glob("samples/*.png") if p.stem.isdigit())
    return read_picture(directory, files[-1].relative_to(directory).as_posix()) if files else None


def _films(results: Results, directory: Path) -> list[Sample]:
    films = []
    for index, arm in enumerate(results.arms):
        film = read_film(directory, arm.runs[0].directory) if arm.runs else None
        if film is not None:
            last = f"{film.images[0]:,} to {film.images[-1]:,} images" if film.images else ""
            alt = f"How the samples of {arm.name} develop during training, at fixed noise."
            films.append(Sample(arm.name, index % NUM_COLOURS, last, alt, film=film))
    return films


def _warnings(results: Results) -> list[str]:
    several = len(results.arms) > 1
    return [
        f"{arm.name}, seed {run.seed}: {warning}" if several else warning
        for arm in results.arms
        for run in arm.runs
        for warning in run.warnings
    ]


def _differences(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """The settings in which arms differ, with the value of every arm."""
    flat = [flatten(arm.config) for arm in arms]
    keys = {key: None for config in flat for key in config}
    return [(key, [config.get(key, MISSING) for config in flat]) for key in keys]


def _terms(results: Results) -> list[tuple[str, str]]:
    """Short explanations of the words that this report uses."""
    keys = {metric.key for metric in results.metrics}
    terms = []
    if "frechet_distance" in keys:
        terms.append(("Fréchet distance", "How far the distribution of the samples is from that of "
                      "real images, both seen through a feature network. Lower is better."))
    if "label_accuracy" in keys:
        terms.append(("Label accuracy", "The share of samples that a separate classifier "
                      "recognises as the class they were asked to show."))
    if any(metric.floor for metric in results.metrics):
        terms.append(("Floor", "The same score for real images that the models never saw. A perfect "
                      "model would reach it; nothing can be expected to do better."))
    if keys:
        terms.append(("Interval", "With other draws of the samples the score would fall in this "
                      "range 19 times out of 20."))
    if results.verdicts:
        terms.append(("Not shown", "The difference is no larger than chance explains. It does not "
                      "mean that the two are equal."))
    terms.append(("NFE", "Network evaluations for one image: how often the network runs. "
                  "It decides how long sampling takes."))
    return terms  # fmt: skip
