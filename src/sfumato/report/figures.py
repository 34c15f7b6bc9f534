"""Figures as SVG text, drawn by matplotlib. Colours are CSS variables (templates/figures.css), so
that a figure follows the page into dark mode. Names stand beside what they name, so that nobody
has to decode a colour.
"""

import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from sfumato.core.numbers import number
from sfumato.report.summary import spread
from sfumato.runs.results import ArmRecord, MetricColumn, Results, ScoreRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATES = Path(__file__).parent / "templates"
Number = int | float
WIDTH = 460
NUM_COLOURS = 8
_ROW, _SEED, _TOP, _BOTTOM = 46, 28, 36, 46
_CHARACTER = 8.9
"""Width of a bold character; generous, since the page chooses the font."""

_VARIABLES = (
    "c0",
    "c1",
    "c2",
    "c3",
    "c4",
    "c5",
    "c6",
    "c7",
    "paper",
    "ink",
    "quiet",
    "rule",
    "haze",
)
_FAMILY = re.compile(r"(font-family:|font: [^;]*px) [^;]*")
_DRAWN = {name: f"#0abc{index:02x}" for index, name in enumerate(_VARIABLES)}
"""What matplotlib draws with in place of each CSS variable."""
COLOURS = [_DRAWN[f"c{k}"] for k in range(NUM_COLOURS)]
PAPER, INK, QUIET, RULE, HAZE = (_DRAWN[name] for name in _VARIABLES[NUM_COLOURS:])
NAME: Any = {"fontsize": 13.5, "fontweight": "bold"}
SMALL: Any = {"fontsize": 12.5, "color": QUIET}
DOT: Any = {"marker": "o", "markeredgecolor": PAPER, "markeredgewidth": 1.5}
_FLOOR: Any = {"color": QUIET, "linewidth": 1.5, "linestyle": (0, (5, 4)), "gid": ".floor"}
_STYLE: Any = {
    "text.color": INK,
    "axes.edgecolor": HAZE,
    "axes.labelcolor": QUIET,
    "xtick.color": HAZE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "grid.color": RULE,
}


def limits(values: list[Number], from_zero: bool) -> tuple[Number, Number]:
    """Bounds that hold all values with some air; from 0 where that does not waste the space."""
    low, high = min(values), max(values)
    if from_zero and low >= 0 and (low < 0.5 * high or high == 0):
        low = 0.0
    air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if low == 0 and from_zero else low - air), high + air


def push_apart(positions: list[Number], gap: Number, low: Number, high: Number) -> list[float]:
    """Move labels as little as needed so that neighbours are `gap` apart, within [low, high]."""
    order = np.argsort(positions, kind="stable")
    steps = min(gap, (high - low) / max(len(positions) - 1, 1)) * np.arange(len(positions))
    up = np.maximum.accumulate(np.clip(positions, low, None)[order] - steps) + steps
    down = np.minimum.accumulate((np.minimum(up, high) - steps)[::-1])[::-1] + steps
    placed = np.empty(len(positions))
    placed[order] = down
    return placed.tolist()


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
    key, floor = metric.key, metric.floor
    scores = [run.scores.get(key) for arm in results.arms for run in arm.runs]
    shown = [s for s in scores if s is not None and math.isfinite(s.value)]
    if not shown:
        return Markup()
    known = [*shown, floor] if floor else shown
    values = [v for e in known for v in (e.value, *(e.interval or ()))]
    low, high = limits([v for v in values if v is not None], metric.better == "lower")
    if metric.better == "higher" and max(e.value for e in known) <= 1:
        high = min(high, 1.0)
    names = [textwrap.wrap(arm.name, 17) or [""] for arm in results.arms]
    left = 14 + _CHARACTER * max(len(line) for name in names for line in name)
    heights = [_ROW + _SEED * max(len(arm.values(key)) - 1, 0) for arm in results.arms]

    def draw(axes: "Axes") -> None:
        axes.set(xlim=(low, high), ylim=(sum(heights), -8))
        set_ticks(axes, 4, 0)
        axes.set_xlabel(f"{metric.label} ({metric.better} is better)")
        if floor is not None:
            _draw_floor(axes, metric, floor)
        top = 4
        for index, (arm, name, height) in enumerate(zip(results.arms, names, heights, strict=True)):
            middle = top + height / 2
            for k, line in enumerate(name):
                up = 8 * (len(name) - 1) - 16 * k
                write(axes, line, (low, middle), (-12, up - 5), ha="right", **NAME)
            _draw_runs(axes, arm, key, middle, COLOURS[index % NUM_COLOURS])
            top += height

    about = "; ".join(
        f"{arm.name} {number(arm.mean(key))} ({spread(arm, key) or 'no interval'})"
        for arm in results.arms
    )
    beside = f"; floor {number(floor.value)}" if floor else ""
    height = _TOP + sum(heights) + _BOTTOM
    return figure_svg(f"{metric.label} of every arm: {about}{beside}.", height, draw, left, top=28)


def _draw_floor(axes: "Axes", metric: MetricColumn, floor: ScoreRecord) -> None:
    """The floor as a vertical line with its interval, and its name above."""
    low, high = axes.get_xlim()
    if floor.interval:
        start, end = (min(max(bound, low), high) for bound in floor.interval)
        axes.axvspan(start, end, color=HAZE, alpha=0.16, linewidth=0)
    axes.axvline(floor.value, **_FLOOR)
    name = ("floor" if metric.better == "lower" else "real images") + f" {number(floor.value)}"
    top, half = axes.get_ylim()[1], 3.6 * len(name)
    x, _ = axes.transData.transform((floor.value, top))
    inside = min(max(x, axes.bbox.x0 + half), axes.bbox.x1 + 14 - half)
    write(axes, name, (floor.value, top), (inside - x, 8), ha="center", **SMALL)


def _draw_runs(axes: "Axes", arm: ArmRecord, key: str, middle: float, colour: str) -> None:
    """The runs of an arm below one another: value, interval, and the number above the dot."""
    scores = [(run.seed, run.scores.get(key)) for run in arm.runs]
    found = [(seed, s) for seed, s in scores if s is not None and math.isfinite(s.value)]
    low, high = axes.get_xlim()
    if not found:
        write(axes, "–", (low, middle), (6, -4), **SMALL)
    for k, (seed, score) in enumerate(found):
        y, x = middle + _SEED * (k - (len(found) - 1) / 2), [score.value]
        if score.interval:
            start, end = (min(max(bound, low), high) for bound in score.interval)
            axes.plot([start, end], [y, y], color=colour, lw=10, alpha=0.22, solid_capstyle="butt")
            x = [start, score.value, end]
        about, place = f"{arm.name}, seed {seed}: {number(score.value)}", [len(x) // 2]
        style = {"color": colour, "markersize": 10, "markevery": place, "gid": tooltip(about)} | DOT
        axes.plot(x, [y] * len(x), **style)
        small = NAME | {"fontsize": 12.5, "gid": ".value"}
        write(axes, number(score.value), (score.value, y), (0, 10), ha="center", **small)


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
    short = _shortened([curve.name for curve in curves])
    ys = [y for curve in curves for y in curve.y] + ([floor.value] if floor else [])
    log = min(ys) > 0 and max(ys) > 5 * sorted(ys)[len(ys) // 2]
    if not log:
        ys += [edge for curve in curves for edges in curve.band or [] for edge in edges]
    low, high = (min(ys) / 1.1, max(ys) * 1.1) if log else limits(ys, from_zero=True)
    x_low = 0 if x_from_zero else min(curve.x[0] for curve in curves)
    x_high = max(curve.x[-1] for curve in curves)

    def draw(axes: "Axes") -> None:
        axes.set(xlim=(x_low, x_high if x_high > x_low else x_low + 1), xlabel=x_label)
        axes.set(yscale="log" if log else "linear", ylim=(low, high))
        set_ticks(axes, 4, 5)
        for curve in curves:
            if curve.band is not None:
                below, above = (
                    [min(max(pair[k], low), high) for pair in curve.band] for k in (0, 1)
                )
                colour = COLOURS[curve.colour]
                axes.fill_between(curve.x, below, above, color=colour, alpha=0.16, linewidth=0)
        for curve in curves:
            axes.plot(curve.x, curve.y, color=COLOURS[curve.colour], gid=".line")
        if floor is not None:
            draw_floor_across(axes, floor.value)
        _draw_names(axes, list({curve.name: curve for curve in curves}.values()), short)

    last = "; ".join(f"{curve.name} ends at {number(curve.y[-1])}" for curve in curves)
    scale = ", logarithmic scale" if log else ""
    about = f"{title} against {x_label}{scale}: {last}."
    right = 10 + _CHARACTER * max(map(len, short.values()))
    return figure_svg(about, max(250, 90 + 18 * len(curves)), draw, right=right)


def _draw_names(axes: "Axes", curves: list[Curve], short: dict[str, str]) -> None:
    """Names beside the right ends of lines; several seeds of an arm share one."""
    ends = [axes.transData.transform((curve.x[-1], curve.y[-1])) for curve in curves]
    places = push_apart([y for _, y in ends], 16, axes.bbox.y0, axes.bbox.y1)
    for curve, (x, y), place in zip(curves, ends, places, strict=True):
        end, colour, gap = (curve.x[-1], curve.y[-1]), COLOURS[curve.colour], axes.bbox.x1 - x
        style = NAME | {"color": colour, "gid": ".name", "va": "center_baseline"}
        if gap > 12:  # trained for a shorter time than another: lead the eye to the name
            leader = {"arrowstyle": "-", "linestyle": (0, (1, 4)), "edgecolor": colour}
            style |= {"arrowprops": leader}
        write(axes, short[curve.name], end, (gap + 9, place - y), **style)
        axes.plot(*end, color=colour, markersize=6, **DOT)


def draw_floor_across(axes: "Axes", value: Number) -> None:
    """The floor as a dashed line over the width of the figure, with its name."""
    axes.axhline(value, **_FLOOR)
    write(axes, f"floor {number(value)}", (axes.get_xlim()[0], value), (6, 6), **SMALL)


def write(
    axes: "Axes", text: str, at: tuple[Number, Number], shift: tuple[Number, Number], **style: Any
) -> None:
    """Text at a point of the data, moved by `shift` to the right and up."""
    axes.annotate(text, at, shift, textcoords="offset points", **style)


def set_ticks(axes: "Axes", x_at_most: int, y_at_most: int) -> None:
    """Round ticks on both axes, and a grid across; logarithmic where the scale is."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    thousands = EngFormatter(sep="")
    for axis, at_most in ((axes.xaxis, x_at_most), (axes.yaxis, y_at_most)):
        low, high = axis.get_view_interval()
        axis.set_minor_locator(NullLocator())
        if not at_most:
            axis.set_major_locator(NullLocator())
        elif axis.get_scale() == "log" and high > 5 * low:
            multiples = (1, 2, 5) if high < 100 * low else (1,)
            axis.set_major_locator(LogLocator(subs=multiples, numticks=7))
        else:
            axis.set_major_locator(MaxNLocator(at_most, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(lambda v, _: thousands(v) if abs(v) >= 1000 else f"{v:g}")
    axes.grid(axis="y")


def tooltip(text: str) -> str:
    """The gid of an artist that shows `text` when the pointer rests on it."""
    return f"title:{text}"


def figure_svg(
    about: str,
    height: Number,
    draw: Callable[["Axes"], None],
    left: Number = 52,
    right: Number = 16,
    top: Number = 14,
    bottom: Number = _BOTTOM,
) -> Markup:
    """What `draw` paints on axes with these margins, as SVG for the page; its text stays text.

    An artist whose gid is ".name" becomes an element of that class.

    Args:
        about: the figure in words, for those who cannot see it.
        height: of the figure, which is WIDTH wide; it and the margins are in units of the viewBox.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    inner = (WIDTH - left - right) / WIDTH, (height - top - bottom) / height
    style = TEMPLATES / "figures.mplstyle"  # in place of whatever style the user has
    with mpl.rc_context(_STYLE | {"svg.hashsalt": about}, fname=style):
        figure = Figure((WIDTH / 72, height / 72))
        axes = figure.add_axes((left / WIDTH, bottom / height, *inner))
        draw(axes)
        for artist in axes.findobj():
            artist.set_clip_on(False)
        file = io.StringIO()
        figure.savefig(file, format="svg")
    return _for_page(ElementTree.fromstring(file.getvalue()), about)


def _for_page(svg: ElementTree.Element, about: str) -> Markup:
    """A file of matplotlib's as an element of a page: without metadata, style and font."""
    size = svg.get("viewBox", "")
    for element in list(svg.iter()):
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        if element.tag != "text":
            element.text = None
        for key in list(element.attrib):
            value = " ".join(element.attrib.pop(key).split())
            element.set(key.rpartition("}")[2], _FAMILY.sub(r"\1 var(--sans)", value))
        for child in list(element):
            if child.tag.endswith(("}metadata", "}style")):
                element.remove(child)
        if element.tag == "g" and (name := element.attrib.pop("id", "")):
            if name.startswith("."):
                element.set("class", name[1:])
            elif name.startswith("title:"):
                _add_title(element, name.removeprefix("title:"))
    svg.attrib = {"class": "figure", "role": "img", "viewBox": size}
    _add_title(svg, about)
    text = ElementTree.tostring(svg, encoding="unicode")
    for variable, colour in _DRAWN.items():
        text = text.replace(colour, f"var(--{variable})")
    return Markup(text)


def _add_title(element: ElementTree.Element, text: str) -> None:
    title = ElementTree.Element("title")
    title.text = text
    element.insert(0, title)


def _shortened(names: list[str]) -> dict[str, str]:
    """Names cut to 17 characters: first at the beginning, what all share; then at the end."""
    skip = 0
    if max(map(len, names)) > 17 and len(set(names)) > 1:
        common = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
        skip = len(list(common))
    skip = skip if skip > 3 else 0
    cut = {name: "…" + name[skip:] if skip else name for name in names}
    return {name: text if len(text) <= 17 else text[:16] + "…" for name, text in cut.items()}
