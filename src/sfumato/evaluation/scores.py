"""From what was seen of generated and of real images to scores, all metrics and classes."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sfumato.core.images import Labels
from sfumato.evaluation.feature_cache import Observed
from sfumato.evaluation.protocol import METRICS
from sfumato.metrics.estimate import Estimate, share_of
from sfumato.metrics.extrapolation import LEAST_PER_DIMENSION, extrapolated_distance
from sfumato.metrics.features import FeatureNetwork
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.frechet_interval import frechet_estimate
from sfumato.metrics.inception_score import inception_score
from sfumato.metrics.kernel import kernel_estimate
from sfumato.metrics.manifold import density_coverage, precision_recall

LEAST_OF_A_CLASS = 10
"""Classes with fewer images, on either side, get no distance of their own."""
ACCURACY = "label_accuracy"
MOMENTS_SUFFICE = frozenset({"frechet_distance", "inception_score", ACCURACY})
"""These metrics need no more of the reference than its mean and covariance."""


@dataclass(frozen=True)
class Reference:
    """The side that stays fixed; `features` are None where moments suffice."""

    frechet: FrechetReference
    features: Float[Tensor, "M d"] | None

    @staticmethod
    def of(features: Float[Tensor, "M d"]) -> "Reference":
        """The reference made of features."""
        return Reference(FrechetReference.of(features), features)


def scores_of(
    metrics: Collection[str],
    seen: Observed,
    reference: Reference,
    network: FeatureNetwork,
    labels: Labels | None,
) -> dict[str, Estimate]:
    """The metrics that are asked for and can be had, in the order of METRICS.

    Args:
        metrics: their keys.
        seen: the generated images.
        reference: the real ones.
        network: that the features are of.
        labels: the classes that images were generated for; None: unconditional.
    Raises:
        MetricError: too few images for a metric.
    """
    wanted, fake, real = set(metrics), seen.features, reference.features
    labels = None if labels is None else labels.cpu()
    found: dict[str, Estimate] = {}
    if "frechet_distance" in wanted:
        found["frechet_distance"] = frechet_estimate(fake, reference.frechet, labels)
    if "inception_score" in wanted and network.head is not None:
        found["inception_score"] = inception_score(fake @ network.head.cpu().T, labels)
    if real is not None:
        enough = min(len(fake), len(real)) >= LEAST_PER_DIMENSION * network.dim
        if "frechet_infinity" in wanted and enough:
            found["frechet_infinity"] = extrapolated_distance(fake, real, labels)
        if "kernel_distance" in wanted:
            found["kernel_distance"] = kernel_estimate(fake, real, labels)
        if wanted & {"precision", "recall"}:
            found |= precision_recall(fake, real, strata=labels)
        if wanted & {"density", "coverage"}:
            found |= density_coverage(fake, real, strata=labels)
    if ACCURACY in wanted and labels is not None and seen.predicted is not None:
        found[ACCURACY] = share_of(seen.predicted == labels, labels)
    chosen = {metric.key for metric in METRICS if metric.key in wanted}
    return {
        metric.key: found[metric.key] for metric in METRICS if metric.key in found.keys() & chosen
    }


@dataclass(frozen=True)
class Labelled:
    """Images that were seen, and the class each is of or was generated for."""

    seen: Observed
    labels: Int64[Tensor, " N"]

    def of(self, number: int) -> Observed:
        """Those of one class."""
        rows = self.labels == number
        predicted = self.seen.predicted
        return Observed(self.seen.features[rows], None if predicted is None else predicted[rows])


def scores_by_class(
    metrics: Collection[str],
    generated: Labelled,
    real: Labelled,
    network: FeatureNetwork,
    names: tuple[str, ...],
) -> dict[str, dict[str, Estimate]]:
    """The metrics of each class on its own.

    A distance has the bias of the few images of a class: compare it with the floor of the same
    class only. Classes with very few images, on either side, have their label accuracy alone.
    """
    found: dict[str, dict[str, Estimate]] = {}
    for number, name in enumerate(names):
        ours, theirs = generated.of(number), real.of(number)
        counts = len(ours.features), len(theirs.features)
        if not counts[0]:
            continue
        scores: dict[str, Estimate] = {}
        if min(counts) >= LEAST_OF_A_CLASS:
            reference = Reference.of(theirs.features)
            scores = scores_of(set(metrics) - {ACCURACY}, ours, reference, network, None)
        if ACCURACY in metrics and ours.predicted is not None:
            scores[ACCURACY] = share_of(ours.predicted == number)
        draws = torch.nonzero(generated.labels == number).flatten()
        if scores:
            found[name] = {key: _of_draws(score, draws) for key, score in scores.items()}
    return found


def _of_draws(score: Estimate, draws: Int64[Tensor, " k"]) -> Estimate:
    """A score that says which of all images it is of, so that only the same are ever paired."""
    if score.left_out is None:
        return score
    return replace(score, left_out=replace(score.left_out, draws=draws))


def class_histogram(seen: Observed, names: tuple[str, ...]) -> dict[str, int]:
    """How many images the judge sees in each class; empty without a judge."""
    if seen.predicted is None:
        return {}
    counts = torch.bincount(seen.predicted, minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))
