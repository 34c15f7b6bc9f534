"""Figures of Pareto fronts: what quality each amount of time or of network evaluations buys."""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from sfumato.core.numbers import duration, listed, number
from sfumato.report.curves import Figure
from sfumato.report.figures import (
    NUM_COLOURS,
    WIDTH,
    Axis,
    Number,
    axis_below,
    axis_left,
    figure_svg,
    floor_across,
    legend,
    limits,
)
from sfumato.runs.results import FrontPoint, MetricColumn, Results

COSTS = {
    "train_seconds": ("seconds of training", "training"),
    "nfe": ("network evaluations of a sample (NFE)", "NFE"),
    "sample_seconds": ("seconds to draw all samples", "sampling"),
}
LEFT, TOP, PLOT = 52, 14, 230


def front_figures(results: Results) -> list[Figure]:
    """A figure for each kind of cost in which arms differ."""
    found = results.fronts
    metric = results.metric(found.metric) if found else None
    if found is None or metric is None:
        return []
    figures = []
    for key, (label, short) in COSTS.items():
        points = [p for p in getattr(found, key) if math.isfinite(p.quality) and p.cost > 0]
        if len({point.cost for point in points}) > 1:
            figures.append((f"front-{key}", _figure(results, metric, points, label, short)))
    return figures


def front_lines(results: Results) -> list[str]:
    """The fronts in words."""
    found = results.fronts
    metric = results.metric(found.metric) if found else None
    if found is None or metric is None:
        return []
    lines = []
    for key, (label, short) in COSTS.items():
        points = [p for p in getattr(found, key) if math.isfinite(p.quality) and p.cost > 0]
        if len({point.cost for point in points}) > 1:
            lines.append(f"{metric.label} against {label}: {front_text(points, short)}")
    return lines


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


def _figure(
    results: Results, metric: MetricColumn, points: Sequence[FrontPoint], label: str, short: str
) -> Markup:
    costs, qualities = [p.cost for p in points], [p.quality for p in points]
    known = qualities + ([metric.floor.value] if metric.floor else [])
    log = min(known) > 0 and max(known) > 5 * min(known)
    low, high = (min(known) / 1.15, max(known) * 1.15) if log else limits(known, from_zero=True)
    bottom, right = TOP + PLOT, WIDTH - 16
    x_axis = Axis(min(costs) / 1.15, max(costs) * 1.15, LEFT, right, log=True)
    y_axis = Axis(low, high, bottom, TOP, log)
    parts = [axis_below(x_axis, bottom, label), axis_left(y_axis, right)]
    if metric.floor is not None:
        parts.append(floor_across(y_axis, metric.floor.value, right))
    best = [p for p in points if p.on_front]
    steps: list[tuple[float, float]] = []
    for point in best:  # what is reached at a cost is kept until something better can be had
        if steps:
            steps.append((x_axis(point.cost), steps[-1][1]))
        steps.append((x_axis(point.cost), y_axis(point.quality)))
    steps.append((right, steps[-1][1]))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in steps)
    parts.append(f'<polyline class="front" points="{path}"/>')
    for point in points:
        colour = results.place_of(point.arm) % NUM_COLOURS
        x, y = x_axis(point.cost), y_axis(point.quality)
        about = f"{point.arm}: {number(point.quality)} at {_cost(point.cost, short)}"
        style = "dot" if point.on_front else "ring"
        parts.append(
            f'<g><title>{escape(about)}</title><circle class="{style} c{colour}" cx="{x:.1f}" '
            f'cy="{y:.1f}" r="{4.5 if point.on_front else 3.5}"/></g>'
        )
    names = list(dict.fromkeys(point.arm for point in points))
    key, height = legend([(n, results.place_of(n) % NUM_COLOURS) for n in names], bottom + 60)
    parts.append(key)
    title = f"{metric.label} against {label}. The front: {front_text(points, short)}."
    return figure_svg(title, height, parts)
