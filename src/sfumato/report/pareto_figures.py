"""Figures of Pareto fronts: what quality each amount of time or of network evaluations buys."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sfumato.core.numbers import duration, listed, number
from sfumato.report.curves import Figure
from sfumato.report.figures import (
    COLOURS,
    DOT,
    HAZE,
    NUM_COLOURS,
    PAPER,
    WIDTH,
    Number,
    draw_floor_across,
    figure_svg,
    limits,
    set_ticks,
    tooltip,
)
from sfumato.runs.results import FrontPoint, MetricColumn, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS = {
    "train_seconds": ("seconds of training", "training"),
    "nfe": ("network evaluations of a sample (NFE)", "NFE"),
    "sample_seconds": ("seconds to draw all samples", "sampling"),
}


def fronts(results: Results) -> list[tuple[Figure, str]]:
    """A figure and the front in words, for each kind of cost in which arms differ."""
    found = results.fronts
    metric = results.metric(found.metric) if found else None
    if found is None or metric is None:
        return []
    drawn = []
    for key, (label, short) in COSTS.items():
        points = [p for p in getattr(found, key) if math.isfinite(p.quality) and p.cost > 0]
        if len({point.cost for point in points}) > 1:
            figure = _figure(results, metric, points, label, short)
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


def _figure(
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
