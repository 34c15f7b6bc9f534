"""From the rows of metrics.jsonl to curves: losses, quality, what was watched of a GAN."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from sfumato.report.figures import NUM_COLOURS, Curve, Number, curve_figure
from sfumato.runs.directory import read_metrics
from sfumato.runs.results import Results, ScoreRecord

MAX_POINTS = 80
LEVELS = "loss_by_log_snr/"
OPEN = 3.0
"""How wide the open bins of log-SNR are drawn."""
KINDS = {
    "logits": "Logits of the discriminator",
    "accuracy": "Accuracy of the discriminator",
    "overfitting": "Overfitting of the discriminator (r_v: 0 none, 1 by heart)",
    "ada": "Adaptive augmentation",
    "class_share": "Classes of samples (share)",
    "duplicates": "Samples with a twin (share)",
}
"""The part of a column's name before the slash, and the title of its figure."""
Rows = Sequence[Mapping[str, float]]
Figure = tuple[str, Markup]
"""A name that can be that of a file, and the SVG."""
Group = tuple[str, list[Figure]]
"""A heading and its figures."""


def histories(results: Results, directory: Path) -> Sequence[tuple[str, int, Rows]]:
    """(arm, colour, rows) of every run that has a training history."""
    found = []
    for index, arm in enumerate(results.arms):
        for run in arm.runs:
            rows = read_metrics(directory / run.directory / "metrics.jsonl")
            if rows:
                found.append((arm.name, index % NUM_COLOURS, rows))
    return found


def loss_figures(logs: Sequence[tuple[str, int, Rows]]) -> list[Group]:
    """For every training phase its loss, against images seen and against seconds.

    The losses of different phases measure different things, so each has a figure of its own.
    """
    keys = {key: None for _, _, rows in logs for row in rows for key in row}
    phases = [key for key in keys if key.startswith("loss/")]
    titles = [key.removeprefix("loss/").replace("_", " ") for key in phases]
    groups = [
        (title.capitalize(), _pair(key, f"Loss of the phase {title}", logs, None))
        for key, title in zip(phases, titles, strict=True)
    ]
    return [group for group in groups if group[1]]


def level_figures(logs: Sequence[tuple[str, int, Rows]]) -> list[Figure]:
    """Where denoisers are bad: the loss at each noise level, mean of the last quarter of training.

    Every parameterization has a loss of its own, so that only the shapes of their lines compare.
    """
    curves = []
    for name, colour, rows in logs:
        late = rows[-max(1, len(rows) // 4) :]
        points = []
        for key in dict.fromkeys(key for row in late for key in row if key.startswith(LEVELS)):
            values = [v for row in late if (v := value_of(row, key)) is not None]
            if values:
                points.append((_middle(key.removeprefix(LEVELS)), sum(values) / len(values)))
        points.sort()
        if points:
            curves.append(Curve(name, colour, [x for x, _ in points], [y for _, y in points]))
    figure = curve_figure(
        "Loss by noise level",
        "log-SNR (noise on the left, data on the right)",
        curves,
        x_from_zero=False,
    )
    return [("loss-by-noise-level", figure)] if figure else []


def _middle(bin_name: str) -> Number:
    """The middle of a bin "low to high"; open bins end as far out as their neighbours are wide."""
    low, high = (float(end) for end in bin_name.split(" to "))
    if math.isinf(low):
        return high - OPEN / 2
    return low + OPEN / 2 if math.isinf(high) else (low + high) / 2


def sampler_figures(results: Results) -> list[Figure]:
    """The Fréchet distance against the network evaluations of a sample, arm by arm."""
    metric = results.metric("frechet_distance")
    curves = []
    for index, arm in enumerate(results.arms):
        for run in arm.runs:
            points = [(p.nfe, p.frechet_distance.value) for p in run.sampler_curve]
            points = sorted(p for p in points if math.isfinite(p[1]))
            if points:
                x, y = [float(x) for x, _ in points], [y for _, y in points]
                curves.append(Curve(arm.name, index % NUM_COLOURS, x, y))
    label, floor = (metric.label, metric.floor) if metric else ("Fréchet distance", None)
    figure = curve_figure(label, "NFE", curves, floor)
    return [("sampler-nfe", figure)] if figure else []


def quality_figures(results: Results, logs: Sequence[tuple[str, int, Rows]]) -> list[Group]:
    """Every metric that was measured during training, with its floor as a line."""
    groups = [
        (metric.label, _pair(metric.key, metric.label, logs, metric.floor))
        for metric in results.metrics
    ]
    return [group for group in groups if group[1]]


def merged(
    points: Sequence[tuple[Number, Number]],
) -> tuple[list[Number], list[Number], list[tuple[Number, Number]]]:
    """At most MAX_POINTS points: neighbours become their mean, with their (min, max) kept."""
    if not points:
        return [], [], []
    size = -(-len(points) // MAX_POINTS)
    x, y, band = [], [], []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        values = [value for _, value in group]
        x.append(sum(position for position, _ in group) / len(group))
        y.append(sum(values) / len(values))
        band.append((min(values), max(values)))
    x[0], x[-1] = points[0][0], points[-1][0]
    return x, y, band


def _pair(
    key: str, title: str, logs: Sequence[tuple[str, int, Rows]], floor: ScoreRecord | None
) -> list[Figure]:
    longest = max((row["seconds"] for _, _, rows in logs for row in rows if "seconds" in row),
                  default=0)  # fmt: skip
    unit, size = ("hours", 3600) if longest > 7200 else (
        ("minutes", 60) if longest > 600 else ("seconds", 1)
    )  # fmt: skip
    figures = []
    for axis, label, scale in (("images", "images seen", 1), ("seconds", unit, size)):
        curves = [_line(name, colour, rows, axis, key, scale) for name, colour, rows in logs]
        file = f"{key.replace('/', '-')}-{axis}"
        figures.append((file, curve_figure(title, label, curves, floor)))
    return [figure for figure in figures if figure[1]]


def _line(name: str, colour: int, rows: Rows, x_key: str, y_key: str, x_unit: Number = 1) -> Curve:
    found = [(row.get(x_key), value_of(row, y_key)) for row in rows]
    points = [(x / x_unit, y) for x, y in found if x is not None and y is not None]
    x, y, band = merged(points)
    return Curve(name, colour, x, y, band if len(points) > len(x) else None)


def value_of(row: Mapping[str, float], key: str) -> Number | None:
    """A finite number of a row."""
    value = row.get(key)
    return None if value is None or not math.isfinite(value) else float(value)


def watch_figures(logs: Sequence[tuple[str, int, Rows]]) -> list[Group]:
    """Columns of one kind share a figure, since they are to be compared with each other."""
    groups = []
    for kind, title in KINDS.items():
        figures = [
            figure
            for number, (name, _, rows) in enumerate(logs)
            if (figure := _figure(kind, f"{title}: {name}", f"{kind}-{number}", rows))[1]
        ]
        if figures:
            groups.append((title, figures))
    return groups


def _figure(kind: str, title: str, file: str, rows: Rows) -> Figure:
    keys = dict.fromkeys(key for row in rows for key in row if key.partition("/")[0] == kind)
    curves = []
    for index, key in enumerate(keys):
        label = (key.partition("/")[2] or key).replace("_", " ")
        curves.append(_line(label, index % NUM_COLOURS, rows, "images", key))
    return file, curve_figure(title, "images seen", curves)
