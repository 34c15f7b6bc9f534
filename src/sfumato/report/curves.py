"""From training histories and results to curves: losses, quality, GAN diagnostics, fronts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sfumato.core.numbers import duration, listed, number
from sfumato.report.figures import (
    COLOURS,
    DOT,
    HAZE,
    NUM_COLOURS,
    PAPER,
    WIDTH,
    Curve,
    Number,
    curve_figure,
    draw_floor_across,
    figure_svg,
    limits,
    set_ticks,
    tooltip,
)
from sfumato.runs.directory import read_metrics
from sfumato.runs.results import FrontPoint, MetricColumn, Results, ScoreRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
COSTS = {
    "train_seconds": ("seconds of training", "training"),
    "nfe": ("network evaluations of a sample (NFE)", "NFE"),
    "sample_seconds": ("seconds to draw all samples", "sampling"),
}
"""The label of each axis of costs, and how the text calls it."""
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


def front_figures(results: Results) -> list[tuple[Figure, str]]:
    """A figure and the front in words, for each kind of cost in which arms differ."""
    found = results.fronts
    metric = results.metric(found.metric) if found else None
    if found is None or metric is None:
        return []
    drawn = []
    for key, (label, short) in COSTS.items():
        points = [p for p in getattr(found, key) if math.isfinite(p.quality) and p.cost > 0]
        if len({point.cost for point in points}) > 1:
            figure = _front_figure(results, metric, points, label, short)
            text = f"{metric.label} against {label}: {front_text(points, short)}"
            drawn.append(((f"front-{key}", figure), text))
    return drawn


def front_text(points: Sequence[FrontPoint], short: str) -> str:
    """The front in words: "“dcgan” 1.34 at NFE 1, “ddpm” 0.55 at NFE 50"."""
    parts = [
        f"{point.arm} {number(point.quality)} at {_cost(point.cost, short)}"
        for point in points
        if point.on_front
    ]
    if len(parts) > 6:
        parts = [*parts[:3], f"{len(parts) - 5} more", *parts[-2:]]
    return listed(parts)


def _cost(cost: Number, short: str) -> str:
    return f"NFE {cost:g}" if short == "NFE" else f"{duration(cost)} of {short}"


def _front_figure(
    results: Results, metric: MetricColumn, points: Sequence[FrontPoint], label: str, short: str
) -> Markup:
    costs, qualities = [p.cost for p in points], [p.quality for p in points]
    known = qualities + ([metric.floor.value] if metric.floor else [])
    log = min(known) > 0 and max(known) > 5 * min(known)
    low, high = (min(known) / 1.15, max(known) * 1.15) if log else limits(known, from_zero=True)
    names = list(dict.fromkeys(point.arm for point in points))
    columns = max(1, int((WIDTH - 14) / (30 + 8.2 * max(map(len, names)))))
    key_height = 20 * math.ceil(len(names) / columns)

    def draw(axes: "Axes") -> None:
        axes.set(xscale="log", xlim=(min(costs) / 1.15, max(costs) * 1.15), xlabel=label)
        axes.set(yscale="log" if log else "linear", ylim=(low, high))
        set_ticks(axes, 4, 5)
        if metric.floor is not None:
            draw_floor_across(axes, metric.floor.value)
        best = [p for p in points if p.on_front]
        # What is reached at a cost is kept until something better is reached.
        x, y = [p.cost for p in best], [p.quality for p in best]
        x, y = [*x, max(costs) * 1.15], [*y, y[-1]]
        axes.step(x, y, where="post", color=HAZE, linewidth=1.5, gid=".front")
        for point in points:
            about = f"{point.arm}: {number(point.quality)} at {_cost(point.cost, short)}"
            style = DOT | {"color": colour_of(point.arm), "markersize": 9, "gid": tooltip(about)}
            if not point.on_front:
                style |= {"markeredgecolor": style["color"], "markerfacecolor": (PAPER, 0.6)}
                style["markersize"] = 7
            axes.plot(point.cost, point.quality, **style)
        dots = [axes.plot([], color=colour_of(n), markersize=9, ls="", **DOT)[0] for n in names]
        place: Any = {"loc": "lower left", "bbox_to_anchor": (0, 0), "ncols": columns}
        legend = axes.figure.legend(dots, names, **place)
        for text in legend.get_texts():
            text.set_fontweight("bold")

    def colour_of(arm: str) -> str:
        return COLOURS[results.place_of(arm) % NUM_COLOURS]

    about = f"{metric.label} against {label}. The front: {front_text(points, short)}."
    return figure_svg(about, 300 + key_height, draw, bottom=56 + key_height)
