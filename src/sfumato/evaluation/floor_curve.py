"""Real against real images over N: what a perfect model would score."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sfumato.core.console import progress_bar
from sfumato.core.errors import ConfigError
from sfumato.core.files import atomic_path, cache_folder
from sfumato.data.dataset import Splits
from sfumato.evaluation.feature_cache import FeatureCache
from sfumato.evaluation.image_sources import shuffled
from sfumato.evaluation.protocol import (
    ClassifierFeatures,
    EvaluationConfig,
    build_protocol,
    feature_network,
    named_metrics,
    stamped,
)
from sfumato.evaluation.reference import HeldOut, scores_of
from sfumato.metrics import FRECHET_DISTANCE
from sfumato.metrics.estimate import Estimate
from sfumato.metrics.features import ImageFeatures

FIRST = 100
POINTS_A_DECADE = 4


@dataclass(frozen=True)
class FloorPoint:
    """The Fréchet distance between two draws of N real images.

    Args:
        n: N, images per side.
        distance: between them.
        shared: images that are on both sides. Above 0 the distance is too small. No other draw is
            possible if 2 N exceeds the number of images.
    """

    n: int
    distance: Estimate
    shared: int

    @property
    def disjoint(self) -> bool:
        """Whether this is a floor at all."""
        return self.shared == 0


@dataclass(frozen=True)
class FloorCurve:
    """Points over N, and what they were measured with."""

    points: list[FloorPoint]
    protocol: dict[str, str | int | float]

    @property
    def metric(self) -> str:
        """What the distance is called."""
        return named_metrics(self.protocol)["frechet_distance"].label

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as written to JSON."""
        points = [
            {
                "n": point.n,
                "distance": point.distance.to_mapping(),
                "shared": point.shared,
                "disjoint": point.disjoint,
            }
            for point in self.points
        ]
        return {"metric": self.metric, "protocol": self.protocol, "points": points}


def floor_curve(splits: Splits, config: EvaluationConfig, cache: Path | None = None) -> FloorCurve:
    """Real against real from N = 100 to all images of both splits, four points a decade.

    The images are put into one random order; one side is its beginning, the other its end, so that
    they share none up to half of the images and all at the last point. A classifier's own training
    images are left out.

    Raises:
        ConfigError: fewer than 200 images.
    """
    cache = cache or cache_folder()
    train, held_out = splits.train, splits.held_out
    rows = np.arange(len(train))
    if isinstance(config.features, ClassifierFeatures):
        prepared = HeldOut(splits, replace(config, metrics=("frechet_distance",)), cache)
        network, rows = prepared.network, np.sort(prepared.folds.judge)
    else:
        network = feature_network(config.features, cache)
    total = len(rows) + len(held_out)
    if total < 2 * FIRST:
        raise ConfigError(
            f"a floor curve begins with two draws of {FIRST} images, and {train.name} has {total} "
            "to draw from; use more images"
        )
    cached = FeatureCache(network, None, cache, config.batch_size)
    parts = [(train, rows), (held_out, np.arange(len(held_out)))]
    features = cached.parts(parts).vectors[shuffled(total, config.seed)]
    sets: dict[str, str | int | float] = {
        "data": train.name,
        "images": total,
        "training_digest": train.digest[:16],
        "held_out_digest": held_out.digest[:16],
    }
    protocol = build_protocol(sets, network, {"evaluation_seed": config.seed})
    points = []
    with progress_bar("floor curve", len(sizes(total))) as on_progress:
        for done, n in enumerate(sizes(total)):
            fake, real = ImageFeatures(features[:n]), ImageFeatures(features[-n:])
            distance = scores_of([FRECHET_DISTANCE], fake, real)
            (point,) = stamped(distance, {**protocol, "num_images": n}).values()
            points.append(FloorPoint(n, point, max(0, 2 * n - total)))
            on_progress(done + 1)
    return FloorCurve(points, protocol)


def sizes(total: int) -> list[int]:
    """N from 100 to all, evenly on a logarithmic scale, with the last that is disjoint."""
    count = max(2, round(POINTS_A_DECADE * np.log10(total / FIRST)) + 1)
    spaced = np.geomspace(FIRST, total, count).round().astype(int)
    return sorted({*spaced.tolist(), total // 2, total})


def draw_floor_curve(curve: FloorCurve, path: Path) -> None:
    """Draw the curve; hollow points share images between their sides.

    Raises:
        ConfigError: another suffix than .png, .svg or .pdf.
    """
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"cannot draw into {path.name!r}; end it in .png, .svg or .pdf")
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for disjoint, label in ((True, "disjoint draws"), (False, "draws share images: no floor")):
        points = [point for point in curve.points if point.disjoint == disjoint]
        n = [point.n for point in points]
        values = [point.distance.value for point in points]
        low = [0.0 if p.distance.low is None else p.distance.value - p.distance.low for p in points]
        high = [
            0.0 if p.distance.high is None else p.distance.high - p.distance.value for p in points
        ]
        face = "C0" if disjoint else "white"
        axes.errorbar(n, values, [low, high], fmt="o-" if disjoint else "o", color="C0",
                      markerfacecolor=face, capsize=3, label=label)  # fmt: skip
    axes.axvline(curve.protocol["images"] / 2, color="0.6", linestyle=":")  # type: ignore[operator]
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=max(curve.points[0].distance.value / 1000, 1e-9))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("N, images a side")
    axes.set_ylabel(f"{curve.metric} ({curve.protocol['features']})")
    axes.set_title(f"{curve.protocol['data']}: real images against real images")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)
