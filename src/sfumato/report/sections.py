"""Parts of a report in words: published figures, comparisons, classes, suspected copies."""

import math
from collections.abc import Mapping, Sequence

from sfumato.core.numbers import MISSING, number
from sfumato.report.summary import bounds, spread
from sfumato.runs.results import (
    ArmRecord,
    Comparison,
    CopiesRecord,
    MetricColumn,
    Results,
    ScoreRecord,
    Scores,
)

CLASS_HEADINGS = {"frechet_infinity": "N → ∞"}
COMPARED = (
    "Samples of two arms from the same noise: their mean squared distance, over that of samples "
    "from different noise. 0 means the same images; 1 means that nothing is left of them."
)
SHRUNK = (
    "The published figures belong to models of full size and to their own protocol: beside those "
    "of this preset they show what was claimed, and are no measure of it."
)


def published_rows(results: Results) -> list[list[str]]:
    """A heading, and a line for each published figure: it, ours, our interval, our floor."""
    published = results.published
    if published is None or not published.figures:
        return []
    rows = [["", "published", "arm", "here", "range", "floor here"]]
    for figure in published.figures:
        row = [figure.what, number(figure.value), figure.arm or MISSING]
        arm, metric = results.arm(figure.arm), results.metric(figure.metric)
        if arm is not None and figure.metric and figure.metric.startswith("loss/"):
            rows.append([*row, *_losses(arm, figure.metric), MISSING])
        elif figure.arm is None and metric is not None and metric.floor is not None:
            floor = metric.floor
            rows.append([*row[:2], "real images", number(floor.value), bounds(floor), MISSING])
        elif arm is not None and metric is not None:
            floor_here = number(metric.floor.value if metric.floor else None)
            ours = [number(arm.mean(metric.key)), spread(arm, metric.key)]
            rows.append([*row, *ours, floor_here])
        else:
            rows.append([*row, MISSING, "", MISSING])
    return rows


def _losses(arm: ArmRecord, key: str) -> list[str]:
    """The mean training loss at the end, over the seeds, and its range."""
    values = [run.final_losses[key] for run in arm.runs if key in run.final_losses]
    if not values:
        return [MISSING, ""]
    reach = f"{len(values)} seeds: {number(min(values))} to {number(max(values))}"
    return [number(sum(values) / len(values)), reach if len(values) > 1 else ""]


def compared_lines(results: Results) -> list[str]:
    """Each pair of arms in words."""
    return [_compared(found, len(results.seeds) > 1) for found in results.compared]


def _compared(found: Comparison, several: bool) -> str:
    seed = f" (training seed {found.seed})" if several else ""
    by = "; ".join(
        f"by {name} {number(estimate.value)} [{bounds(estimate)}]"
        for name, estimate in (("pixels", found.pixels), ("features", found.features))
    )
    return f"{found.a} against {found.b}{seed}: {by}"


def status(results: Results) -> str:
    """What is still to be done, in words; empty when all is."""
    if not results.waiting:
        return ""
    runs = "run is" if results.waiting == 1 else "runs are"
    return f"{results.waiting} {runs} still to be done: what stands here is provisional."


def class_rows(
    classes: Mapping[str, Scores],
    class_floors: Mapping[str, Scores],
    metrics: Sequence[MetricColumn],
) -> list[list[str]]:
    """A heading, and a line for each class: its distance beside its own floor, then every other
    metric that was asked for, the floor of the class in brackets.
    """
    keys = dict.fromkeys(key for scores in classes.values() for key in scores)
    others = [key for key in keys if key != "frechet_distance"]
    beside = {key for floors in class_floors.values() for key in floors}
    headings = [
        CLASS_HEADINGS.get(key, key.replace("_", " ")) + (" (floor)" if key in beside else "")
        for key in others
    ]
    labels = {metric.key: metric.label for metric in metrics}
    distance = labels.get("frechet_distance", "Fréchet distance")
    rows = [["class", "N", distance, "floor", "× floor", *headings]]
    for name, scores in classes.items():
        floors = class_floors.get(name, {})
        score, floor = scores.get("frechet_distance"), floors.get("frechet_distance")
        ratio = score.value / floor.value if score and floor and floor.value else None
        rows.append(
            [
                name,
                str(next(iter(scores.values())).n),
                number(score.value if score else None),
                number(floor.value if floor else None),
                number(ratio),
                *(_beside(scores.get(key), floors.get(key)) for key in others),
            ]
        )
    return rows


def _beside(score: ScoreRecord | None, floor: ScoreRecord | None) -> str:
    """A value with its floor in brackets."""
    if score is None:
        return MISSING
    return number(score.value) + (f" ({number(floor.value)})" if floor else "")


def copies_lines(copies: CopiesRecord) -> list[str]:
    """Suspected copies, twins and variety in a few lines."""
    lines = []
    for kind, found in (("features", copies.features), ("pixels", copies.pixels)):
        lines.append(
            f"suspected copies of training images, by {kind}: {_share(found.copies)}; "
            f"of held-out images {_share(found.held_out)}; nearest training image at "
            f"{found.median_ratio:.2f} times the distance of held-out images"
        )
    lines.append(
        f"twins among the samples: {_share(copies.duplicates)}; among held-out images "
        f"{_share(copies.real_duplicates)}"
    )
    lines.append(f"variety: {copies.diversity:.2f} times that of held-out images")
    return lines


def _share(share: ScoreRecord) -> str:
    """A percentage with the end of its interval; no line breaks between a number and its %."""
    upper = math.nan if share.high is None else share.high
    return f"{100 * share.value:.1f}\u00a0% (up to {100 * upper:.1f}\u00a0%)"
