"""Figures as SVG text. Colours are CSS variables (templates/figures.css), so that a figure follows
the page into dark mode; names stand beside what they name, so that no colour has to be decoded.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from markupsafe import Markup, escape

from sfumato.core.numbers import number
from sfumato.report.summary import spread
from sfumato.runs.results import MetricColumn, Results, ScoreRecord

TEMPLATES = Path(__file__).parent / "templates"
Number = int | float
WIDTH = 460
NUM_COLOURS = 8
_ROW, _SEED, _TOP, _BOTTOM = 46, 28, 36, 46


@dataclass(frozen=True)
class Axis:
    """Maps data in [low, high] to pixels in [start, end].

    Args:
        low, high: the data shown; both above 0 when `log`.
        start, end: pixels; end < start for an axis that points up.
        log: logarithmic.
    """

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool = False

    def __call__(self, value: Number) -> float:
        """The pixel of a value."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, at_most: int = 5) -> list[Number]:
        """Round values within the axis."""
        return _log_ticks(self.low, self.high) if self.log else self._linear_ticks(at_most)

    def _linear_ticks(self, at_most: int) -> list[Number]:
        step = nice_step((self.high - self.low) / at_most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(k * step, 12) for k in range(first, last + 1)]


def nice_step(rough: Number) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def _log_ticks(low: Number, high: Number) -> list[Number]:
    """Powers of ten, with 2 and 5 between them while there are few."""
    for multiples in ((1, 2, 5), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**p for p in powers for m in multiples if low <= m * 10.0**p <= high]
        if len(ticks) <= 6:
            return ticks
    return ticks[:: math.ceil(len(ticks) / 6)]


def limits(values: list[Number], from_zero: bool) -> tuple[Number, Number]:
    """Bounds that hold all values with some air; from 0 where that does not waste the space."""
    low, high = min(values), max(values)
    if from_zero and low >= 0 and (low < 0.5 * high or high == 0):
        low = 0.0
    air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if low == 0 and from_zero else low - air), high + air


def push_apart(positions: list[Number], gap: Number, low: Number, high: Number) -> list[Number]:
    """Move labels as little as needed so that neighbours are `gap` apart, within [low, high]."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    gap = min(gap, (high - low) / max(len(positions) - 1, 1))
    placed: list[Number] = []
    for i in order:
        placed.append(max(positions[i], placed[-1] + gap if placed else low))
    bottom = high
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], bottom)
        bottom = placed[k] - gap
    result = [0.0] * len(positions)
    for k, i in enumerate(order):
        result[i] = placed[k]
    return result


@dataclass(frozen=True)
class Curve:
    """One line: x ascending; `band` is (low, high) around y, where many rows were merged."""

    name: str
    colour: int
    x: list[Number]
    y: list[Number]
    band: list[tuple[Number, Number]] | None = None


def standalone(svg: str) -> str:
    """A figure as a file of its own, for a README or a paper."""
    style = (TEMPLATES / "figures.css").read_text(encoding="utf-8")
    head = '<svg xmlns="http://www.w3.org/2000/svg" '
    styled = str(svg).replace("</title>", f"</title><style>{style}</style>", 1)
    return styled.replace("<svg ", head, 1)


def score_figure(results: Results, metric: MetricColumn) -> Markup:
    """A dot and its interval for every run, the floor as a dashed line; empty without scores."""
    rows = [(arm, arm.values(metric.key)) for arm in results.arms]
    scores = [run.scores.get(metric.key) for arm, _ in rows for run in arm.runs]
    shown = [s for s in scores if s is not None and math.isfinite(s.value)]
    if not shown:
        return Markup()
    names = [textwrap.wrap(arm.name, 17) or [""] for arm, _ in rows]
    left = 14 + 8.9 * max(len(line) for name in names for line in name)
    known = [*shown, metric.floor] if metric.floor else shown
    values = [v for e in known for v in (e.value, *(e.interval or ()))]
    low, high = limits([v for v in values if v is not None], metric.better == "lower")
    if metric.better == "higher" and max(e.value for e in known) <= 1:
        high = min(high, 1.0)
    axis = Axis(low, high, left, WIDTH - 16)
    heights = [_ROW + _SEED * max(len(values) - 1, 0) for _, values in rows]
    bottom = _TOP + sum(heights)

    parts = [_x_axis(axis, bottom, metric.label + f" ({metric.better} is better)", _tick)]
    if metric.floor is not None:
        parts.append(_floor_line(axis, metric, bottom))
    top = float(_TOP)
    for index, ((arm, _), name, height) in enumerate(zip(rows, names, heights, strict=True)):
        colour = index % NUM_COLOURS
        middle = top + height / 2 + 4
        parts.append(_lines_of_text(name, left - 12, middle))
        runs = [run for run in arm.runs if run.scores.get(metric.key) in shown]
        if not runs:
            parts.append(f'<text class="quiet" x="{left + 6:.1f}" y="{middle + 4:.1f}">–</text>')
        for k, run in enumerate(runs):
            score = run.scores[metric.key]
            assert score is not None
            y = middle + _SEED * (k - (len(runs) - 1) / 2)
            parts.append(_dot(axis, score, y, colour, f"{arm.name}, seed {run.seed}"))
        top += height
    about = "; ".join(
        f"{arm.name} {number(arm.mean(metric.key))} ({spread(arm, metric.key) or 'no interval'})"
        for arm, _ in rows
    )
    floor = f"; floor {number(metric.floor.value)}" if metric.floor else ""
    return figure_svg(f"{metric.label} of every arm: {about}{floor}.", bottom + _BOTTOM, parts)


def curve_figure(
    title: str,
    x_label: str,
    curves: Sequence[Curve],
    floor: ScoreRecord | None = None,
    x_from_zero: bool = True,
) -> Markup:
    """Lines named at their right ends; the y axis is logarithmic where the data ask for it."""
    curves = [curve for curve in curves if curve.x]
    if not curves:
        return Markup()
    height = max(250, 90 + 18 * len(curves))
    short = _shortened([curve.name for curve in curves])
    right = WIDTH - 10 - 8.9 * max(map(len, short.values()))
    bottom = height - _BOTTOM
    ys = [y for curve in curves for y in curve.y] + ([floor.value] if floor else [])
    log = min(ys) > 0 and max(ys) > 5 * sorted(ys)[len(ys) // 2]
    if not log:
        ys += [edge for curve in curves for edges in curve.band or [] for edge in edges]
    low, high = (min(ys) / 1.1, max(ys) * 1.1) if log else limits(ys, from_zero=True)
    x_low = 0 if x_from_zero else min(curve.x[0] for curve in curves)
    x_high = max(curve.x[-1] for curve in curves)
    x_axis = Axis(x_low, x_high if x_high > x_low else x_low + 1, 52, right)
    y_axis = Axis(low, high, bottom, 14, log)
    parts = [_x_axis(x_axis, bottom, x_label, _tick), _y_axis(y_axis, right)]
    for curve in curves:
        if curve.band is not None:
            edge = [(x, b[1]) for x, b in zip(curve.x, curve.band, strict=True)]
            edge += [(x, b[0]) for x, b in zip(curve.x, curve.band, strict=True)][::-1]
            points = _points([(x_axis(x), y_axis(min(max(y, low), high))) for x, y in edge])
            parts.append(f'<polygon class="band c{curve.colour}" points="{points}"/>')
    for curve in curves:
        points = _points([(x_axis(x), y_axis(y)) for x, y in zip(curve.x, curve.y, strict=True)])
        parts.append(f'<polyline class="line c{curve.colour}" points="{points}"/>')
    ends = [(y_axis(c.y[-1]), c.name, f"c{c.colour}", x_axis(c.x[-1])) for c in curves]
    if floor is not None:
        parts.append(floor_across(y_axis, floor.value, right))
    unique = list({end[1]: end for end in ends}.values())  # several seeds share one label
    places = push_apart([end[0] for end in unique], 16, 16, bottom)
    for (y, name, style, x), place in zip(unique, places, strict=True):
        if right - x > 12:  # trained for a shorter time than another: lead the eye to the name
            parts.append(
                f'<line class="leader {style}" x1="{x + 6:.1f}" x2="{right + 5:.1f}" '
                f'y1="{y:.1f}" y2="{place:.1f}"/>'
            )
        parts.append(f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
        parts.append(
            f'<text class="name {style}" x="{right + 9:.1f}" y="{place + 4:.1f}">'
            f"{escape(short[name])}</text>"
        )
    last = "; ".join(f"{curve.name} ends at {number(curve.y[-1])}" for curve in curves)
    scale = ", logarithmic scale" if log else ""
    return figure_svg(f"{title} against {x_label}{scale}: {last}.", height, parts)


def axis_below(axis: Axis, y: Number, label: str) -> str:
    """The x axis with its ticks and label."""
    return _x_axis(axis, y, label, _tick)


def axis_left(axis: Axis, right: Number) -> str:
    """The y axis with its grid."""
    return _y_axis(axis, right)


def floor_across(axis: Axis, value: Number, right: Number) -> str:
    """The floor as a dashed line over the width of the figure."""
    y = axis(value)
    return (
        f'<line class="floor" x1="52" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="58" y="{y - 6:.1f}">floor {number(value)}</text>'
    )


def legend(names: Sequence[tuple[str, int]], top: Number) -> tuple[str, Number]:
    """Names with their colours in lines below a figure, and where they end."""
    parts, x, y = [], 14.0, float(top)
    for name, colour in names:
        width = 30 + 8.2 * len(name)
        if x > 14 and x + width > WIDTH:
            x, y = 14.0, y + 20
        parts.append(
            f'<circle class="dot c{colour}" cx="{x:.1f}" cy="{y - 4:.1f}" r="4.5"/>'
            f'<text class="name c{colour}" x="{x + 10:.1f}" y="{y:.1f}">{escape(name)}</text>'
        )
        x += width
    return "".join(parts), y + 10


def figure_svg(about: str, height: Number, parts: list[str]) -> Markup:
    return Markup(
        f'<svg class="figure" role="img" viewBox="0 0 {WIDTH} {height:.0f}">'
        f"<title>{escape(about)}</title>{''.join(parts)}</svg>"
    )


def _x_axis(axis: Axis, y: Number, label: str, show: Callable[[Number], str]) -> str:
    parts = [f'<line class="axis" x1="{axis.start:.1f}" x2="{axis.end:.1f}" y1="{y}" y2="{y}"/>']
    for tick in axis.ticks(4):
        x = axis(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}"/>')
        text = show(tick)
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{y + 18}">{text}</text>')
    middle = (axis.start + axis.end) / 2
    parts.append(f'<text class="tick mid" x="{middle:.1f}" y="{y + 37}">{escape(label)}</text>')
    return "".join(parts)


def _y_axis(axis: Axis, right: Number) -> str:
    parts = []
    for tick in axis.ticks(5):
        y = axis(tick)
        parts.append(
            f'<line class="grid" x1="52" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick end" x="46" y="{y + 4:.1f}">{_tick(tick)}</text>'
        )
    return "".join(parts)


def _floor_line(axis: Axis, metric: MetricColumn, bottom: Number) -> str:
    floor = metric.floor
    assert floor is not None
    x = axis(floor.value)
    parts = []
    if floor.interval:
        low, high = floor.interval
        start, end = axis(max(low, axis.low)), axis(min(high, axis.high))
        parts.append(
            f'<rect class="haze" x="{start:.1f}" y="{_TOP - 8}" width="{end - start:.1f}" '
            f'height="{bottom - _TOP + 8:.1f}"/>'
        )
    name = f"floor {number(floor.value)}" if metric.better == "lower" else (
        f"real images {number(floor.value)}"
    )  # fmt: skip
    half = 3.6 * len(name)
    label = min(max(x, axis.start + half), axis.end + 14 - half)
    parts.append(
        f'<line class="floor" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 8}" y2="{bottom:.1f}"/>'
        f'<text class="tick mid" x="{label:.1f}" y="{_TOP - 16}">{name}</text>'
    )
    return "".join(parts)


def _dot(axis: Axis, score: ScoreRecord, y: Number, colour: int, name: str) -> str:
    x = axis(score.value)
    parts = [f"<g><title>{escape(name)}: {number(score.value)}</title>"]
    if score.interval:
        low, high = score.interval
        low, high = axis(max(low, axis.low)), axis(min(high, axis.high))
        parts.append(
            f'<rect class="span c{colour}" x="{low:.1f}" y="{y - 5:.1f}" '
            f'width="{high - low:.1f}" height="10" rx="5"/>'
            f'<line class="line c{colour}" x1="{low:.1f}" x2="{high:.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    parts.append(
        f'<circle class="dot c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
        f'<text class="value mid" x="{x:.1f}" y="{y - 10:.1f}">{number(score.value)}</text></g>'
    )
    return "".join(parts)


def _lines_of_text(lines: list[str], x: Number, middle: Number) -> str:
    top = middle + 4 - 8 * (len(lines) - 1)
    return "".join(
        f'<text class="name end" x="{x:.1f}" y="{top + 16 * k:.1f}">{escape(line)}</text>'
        for k, line in enumerate(lines)
    )


def _shortened(names: list[str]) -> dict[str, str]:
    """Names cut to 17 characters: first what all have in common at the beginning, then the end."""
    skip = 0
    if max(map(len, names)) > 17 and len(set(names)) > 1:
        alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
        skip = len(list(alike))
        skip = skip if skip > 3 else 0
    cut = {name: "…" + name[skip:] if skip else name for name in names}
    return {name: text if len(text) <= 17 else text[:16] + "…" for name, text in cut.items()}


def _points(points: Sequence[tuple[Number, Number]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _tick(value: Number) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
