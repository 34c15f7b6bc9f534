"""Metrics between sets of images. `METRICS` lists all, in the order of tables."""

import difflib

from sfumato.metrics.frechet_interval import FRECHET_DISTANCE, FRECHET_INFINITY
from sfumato.metrics.kernel import KERNEL_DISTANCE
from sfumato.metrics.metric import INCEPTION_SCORE, LABEL_ACCURACY, Metric
from sfumato.metrics.precision_recall import COVERAGE, DENSITY, PRECISION, RECALL

__all__ = ["FRECHET_DISTANCE", "LABEL_ACCURACY", "METRICS", "Metric", "find_metric"]

METRICS: tuple[Metric, ...] = (
    FRECHET_DISTANCE,
    FRECHET_INFINITY,
    KERNEL_DISTANCE,
    INCEPTION_SCORE,
    PRECISION,
    RECALL,
    DENSITY,
    COVERAGE,
    LABEL_ACCURACY,
)


def find_metric(name: str) -> Metric:
    """The metric of that key or alias (`fid`, `kid`, `is`); case does not matter.

    Raises:
        ValueError: there is none; names the nearest.
    """
    wanted = name.lower().replace("-", "_")
    by_name = {key: metric for metric in METRICS for key in (metric.key, *metric.aliases)}
    if wanted in by_name:
        return by_name[wanted]
    near = difflib.get_close_matches(wanted, by_name, n=1)
    hint = f"did you mean {by_name[near[0]].key!r}? " if near else ""
    keys = ", ".join(metric.key for metric in METRICS)
    raise ValueError(f"there is no metric {name!r}; {hint}metrics: {keys}")
