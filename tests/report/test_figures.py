"""Scales, ticks and the merging of rows, against what they must satisfy."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from sfumato.report.curves import MAX_POINTS, loss_figures, merged, watch_figures
from sfumato.report.figures import Curve, curve_figure, limits, push_apart, standalone


def ticks(svg: str, anchor: str) -> list[tuple[float, str]]:
    """Position (x of a label below, y of one at the left) and text of the labels of an axis."""
    found = re.findall(
        rf'<text style="[^"]*text-anchor: {anchor}[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]+)<',
        svg,
    )
    return [(float(x if anchor == "middle" else y), text) for x, y, text in found]


def points(svg: str) -> list[list[tuple[float, float]]]:
    """The corners of every line of data, in drawing order."""
    paths = re.findall(r'<g class="line"><path d="([^"]+)"', svg)
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)] for path in paths
    ]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 200_000, ["0", "50k", "100k", "150k", "200k"]),
        (0, 1_250_000, ["0", "500k", "1M"]),
        (0, 10, ["0", "2.5", "5", "7.5", "10"]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[str]) -> None:
    svg = curve_figure("Loss", "images", [Curve("a", 0, [low, high], [1, 2])])
    assert [text for _, text in ticks(svg, "middle")][:-1] == expected
    assert ticks(svg, "middle")[-1][1] == "images"


def test_log_axis_turns_factors_into_lengths() -> None:
    svg = curve_figure("Loss", "images", [Curve("a", 0, [0, 1, 2, 3], [10, 0.1, 0.1, 0.1])])
    labels = ticks(svg, "end")
    assert [text for _, text in labels] == ["0.1", "1", "10"]
    (one, ten, hundred) = [y for y, _ in labels]
    assert one - ten == pytest.approx(ten - hundred, abs=0.01)
    ((first, second, *_),) = points(svg)
    assert first[1] - second[1] == pytest.approx(hundred - one, abs=0.01)
    few = curve_figure("Loss", "images", [Curve("a", 0, [0, 1, 2], [0.8, 0.05, 0.06])])
    assert [text for _, text in ticks(few, "end")] == ["0.05", "0.1", "0.2", "0.5"]
    many = curve_figure("Loss", "images", [Curve("a", 0, [0, 1, 2], [1e9, 1e-9, 1e-9])])
    assert 2 <= len(ticks(many, "end")) <= 7


def test_a_figure_has_the_colours_and_fonts_of_the_page_and_ids_that_nothing_else_has() -> None:
    """Two figures share a page, whose colours depend on the reader's choice of dark or light."""
    curves = [Curve("$a$", 0, [0, 1], [1, 2], [(0.5, 1.5), (1.5, 2.5)]), Curve("b", 7, [0], [1])]
    figures = [curve_figure(title, "images", curves) for title in ("Loss", "Other loss")]
    assert figures[0] == curve_figure("Loss", "images", curves), "the same in every run"
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in figures]
    assert not ids[0] & ids[1]
    for svg in figures:
        assert set(re.findall(r'href="#([^"]+)"', svg)) <= set(re.findall(r'id="([^"]+)"', svg))
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) <= {
            "none", *(f"var(--{name})" for name in ("c0", "c7", "paper", "quiet", "rule", "haze")),
        }  # fmt: skip
        assert not re.search(r"https?:|url\(|DejaVu|<style|<metadata|DOCTYPE", svg)
        assert ">$a$<" in svg, "a name is no formula"


def test_limits_start_at_zero_only_where_that_wastes_no_space() -> None:
    assert limits([4.4, 18.0], from_zero=True)[0] == 0
    assert limits([97.0, 100.0], from_zero=True)[0] > 90
    assert limits([0.0, 0.0], from_zero=True) == (0, 1)
    low, high = limits([5.0], from_zero=False)
    assert low < 5 < high


def test_labels_are_moved_apart_and_stay_in_order() -> None:
    places = push_apart([50.0, 52.0, 10.0, 51.0], gap=16.0, low=0.0, high=100.0)
    order = sorted(range(4), key=lambda k: places[k])
    assert order == [2, 0, 3, 1]
    gaps = [places[b] - places[a] for a, b in pairwise(order)]
    assert min(gaps) >= 16
    assert places[2] == 10, "a label with room stays where it is"
    crowded = push_apart([99.0] * 20, gap=16.0, low=0.0, high=100.0)
    assert min(crowded) >= -1e-9
    assert max(crowded) <= 100


def test_merging_keeps_the_mean_the_ends_and_the_extremes() -> None:
    points = [(float(k), float(k % 7)) for k in range(1, 7 * MAX_POINTS * 2 + 1)]
    x, y, band = merged(points)
    assert len(x) == MAX_POINTS
    assert (x[0], x[-1]) == (points[0][0], points[-1][0])
    assert y == pytest.approx([3.0] * MAX_POINTS)  # every group holds whole periods
    assert band == [(0.0, 6.0)] * MAX_POINTS
    assert merged(points[:5])[:2] == ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])


def test_phases_have_figures_of_their_own_and_nan_is_no_point() -> None:
    rows = [{"images": k, "seconds": k / 10, "loss/g": 1.0 / k, "loss/d": 0.7} for k in (1, 2, 3)]
    rows.append({"images": 4, "seconds": 0.4, "loss/g": float("nan"), "loss/d": 0.8})
    groups = loss_figures([("gan", 0, rows), ("other", 1, [{"images": 1, "loss/mse": 0.1}])])
    names = {title: [name for name, _ in figures] for title, figures in groups}
    assert names == {
        "G": ["loss-g-images", "loss-g-seconds"],
        "D": ["loss-d-images", "loss-d-seconds"],
        "Mse": ["loss-mse-images"],
    }
    (line,) = points(groups[0][1][0][1])
    assert len(line) == 3


def test_long_names_keep_what_tells_them_apart() -> None:
    names = ["linear-rate-0.0001-width-32", "linear-rate-0.0002-width-64"]
    svg = curve_figure("Loss", "images", [Curve(n, 0, [0, 1], [1, k]) for k, n in enumerate(names)])
    assert re.findall(r'class="name"><text[^>]*>([^<]+)<', svg) == ["…1-width-32", "…2-width-64"]


def test_curves_are_valid_svg_with_falling_lines() -> None:
    curve = Curve("a < b & c", 2, [0.0, 50.0, 100.0], [3.0, 2.0, 1.0])
    svg = standalone(curve_figure("Loss", "images seen", [curve]))
    root = ElementTree.fromstring(svg)
    (line,) = points(svg)
    assert [p[0] for p in line] == sorted(p[0] for p in line)
    assert [p[1] for p in line] == sorted(p[1] for p in line), "down the page is less"
    assert line[1][0] - line[0][0] == pytest.approx(line[2][0] - line[1][0], abs=0.2)
    assert any(text.text == "a < b & c" for text in root.iter())


def test_what_was_watched_is_drawn_by_kind_and_run() -> None:
    rows = [
        {"images": n, "logits/real": 1.0, "logits/held_out": 0.5, "ada/p": n / 100, "loss/d": 1}
        for n in range(0, 50, 10)
    ]
    groups = watch_figures([("gan", 0, rows), ("ddpm", 1, [{"images": 1, "loss/mse": 0.1}])])
    assert [title for title, _ in groups] == [
        "Logits of the discriminator",
        "Adaptive augmentation",
    ]
    ((file, svg),) = groups[0][1]
    assert file == "logits-0"
    assert ">real<" in svg
    assert ">held out<" in svg
