"""The rows of the tables: for every arm its scores and what they cost."""

from dataclasses import dataclass

from sfumato.core.numbers import MISSING, count, duration, number, short_count
from sfumato.report.figures import NUM_COLOURS, Number
from sfumato.report.summary import above_floor, best_arm, bounds, ratio_to_floor, spread
from sfumato.runs.results import ArmRecord, MetricColumn, Results, RunRecord


@dataclass(frozen=True)
class Cell:
    """A number of a table: what to read, what stands small beneath it, what to sort by."""

    text: str
    note: str = ""
    sort: Number | None = None
    ratio: str = ""
    """How many times the floor it is, where that means something."""
    excess: str = ""
    """How much above or below the floor it is."""

    @property
    def notes(self) -> str:
        """All the small print."""
        return " · ".join(part for part in (self.note, self.ratio, self.excess) if part)


@dataclass(frozen=True)
class Row:
    """A line of a table: an arm, or one of its runs."""

    name: str
    colour: int | None
    best: bool
    cells: list[Cell]


def columns(results: Results) -> list[str]:
    """The headings of `arm_rows` and `floor_cells`, without that of the names."""
    costs = ["Training", "Parameters", "Images seen", "NFE"]
    return [*(metric.label for metric in results.metrics), *costs]


def arm_rows(results: Results) -> list[Row]:
    """A line for every arm; scores are means over its training seeds."""
    return [_arm_row(results, arm, index) for index, arm in enumerate(results.arms)]


def _arm_row(results: Results, arm: ArmRecord, index: int) -> Row:
    cells = [_score(arm, metric) for metric in results.metrics]
    seconds = [run.train_seconds for run in arm.runs if run.train_seconds is not None]
    seen = [run.images_seen for run in arm.runs if run.images_seen is not None]
    mean_seconds = sum(seconds) / len(seconds) if seconds else None
    rates = [run.images_per_second for run in arm.runs if run.images_per_second is not None]
    rate = f"{short_count(sum(rates) / len(rates))} images/s" if rates else ""
    drawing = [run.sample_seconds for run in arm.runs if run.sample_seconds is not None]
    sampling = f"sampled in {duration(sum(drawing) / len(drawing))}" if drawing else ""
    more = [
        run.training_parameters for run in arm.runs if run.training_parameters != arm.parameters
    ]
    training = f"{short_count(more[0])} to train" if more and more[0] else ""
    cells += [
        Cell(duration(mean_seconds), rate, mean_seconds),
        Cell(short_count(arm.parameters), training, arm.parameters),
        Cell(count(max(seen, default=None)), "", max(seen, default=None)),
        Cell(count(arm.nfe), sampling, arm.nfe),
    ]
    best = bool(results.metrics) and best_arm(results, results.metrics[0]) == arm.name
    return Row(arm.name, index % NUM_COLOURS, best, cells)


def _score(arm: ArmRecord, metric: MetricColumn) -> Cell:
    mean = arm.mean(metric.key)
    ratio, excess = ratio_to_floor(mean, metric), above_floor(mean, metric)
    return Cell(number(mean), spread(arm, metric.key), mean, ratio, excess)


def floor_cells(results: Results) -> list[Cell] | None:
    floors = [metric.floor for metric in results.metrics]
    if not any(floors):
        return None
    cells = [Cell(number(f.value), bounds(f)) if f else Cell(MISSING) for f in floors]
    return [*cells, *[Cell("")] * 4]


def run_rows(results: Results) -> list[Row]:
    """A line for every training seed, with the interval of its own samples."""
    return [
        Row(f"{arm.name}, seed {run.seed}", index % NUM_COLOURS, False, _run_cells(results, run))
        for index, arm in enumerate(results.arms)
        for run in arm.runs
    ]


def _run_cells(results: Results, run: RunRecord) -> list[Cell]:
    scores = [run.scores.get(metric.key) for metric in results.metrics]
    cells = [Cell(number(s.value), bounds(s)) if s else Cell(MISSING) for s in scores]
    return [*cells, Cell(duration(run.train_seconds)), Cell(count(run.images_seen))]
