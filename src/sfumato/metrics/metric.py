"""What a metric is; and two that look at classes: the Inception Score and the label accuracy.

To add a metric: write it in a file of this room and put the object into the list of `__init__`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.metrics.estimate import (
    Estimate,
    LeftOut,
    MetricError,
    Strata,
    jackknifed,
    share_of,
)
from sfumato.metrics.features import ImageFeatures

Need = Literal["moments", "features", "logits", "labels", "judge"]
"""What a metric asks for. "moments": mean and covariance of both sides. "features": those of every
image of both sides. "logits", "labels", "judge": of the generated images alone."""
MISSING: dict[Need, str] = {
    "moments": "the features of one side are unknown",
    "features": "only mean and covariance of the reference are known",
    "logits": "the feature network has no classes; use the features 'inception'",
    "labels": "the images were not generated for classes",
    "judge": "no classifier of this data set judges the images",
}


@dataclass(frozen=True)
class Metric:
    """A score of generated images against real ones.

    Args:
        key: its name in configs, files and on the command line.
        label: its name in tables.
        better: which direction is better.
        needs: what it asks for; where that is absent, `lacks` gives the reason.
        compute: (generated, real) -> the score.
        least_per_dimension: images per side and feature, below which it is not computed.
        aliases: other names that people type.
    """

    key: str
    label: str
    better: Literal["lower", "higher"]
    needs: frozenset[Need]
    compute: Callable[[ImageFeatures, ImageFeatures], Estimate]
    least_per_dimension: int = 0
    aliases: tuple[str, ...] = ()

    def lacks(self, fake: ImageFeatures, real: ImageFeatures) -> str | None:
        """Why there is no number of these images; None if there is one."""
        present = {
            "moments": True,
            "features": fake.features is not None and real.features is not None,
            "logits": fake.head is not None,
            "labels": fake.labels is not None,
            "judge": fake.predicted is not None,
        }
        for need, reason in MISSING.items():
            if need in self.needs and not present[need]:
                return reason
        if not self.least_per_dimension:
            return None
        dim, counts = fake.vectors.shape[1], (len(fake), len(real))
        least = self.least_per_dimension * dim
        if min(counts) >= least:
            return None
        return (
            f"with {dim} features it needs at least {least} images a side, got {counts[0]} and "
            f"{counts[1]}; hold out more with data.held_out, or use features of fewer dimensions"
        )

    def __call__(self, fake: ImageFeatures, real: ImageFeatures) -> Estimate:
        """The score of `fake` against `real`.

        Raises:
            MetricError: too few images, or something it needs is absent.
        """
        if reason := self.lacks(fake, real):
            raise MetricError(f"no {self.key}: {reason}")
        return self.compute(fake, real)


def inception_score(logits: Float[Tensor, "N K"], strata: Strata | None = None) -> Estimate:
    """exp of the mean divergence of p(y | x) from the mean p(y), over all images at once.

    The usual mean over ten parts has ten times the bias of the whole. The interval is a
    delete-one jackknife's. The score is meaningful for logits of the Inception network only.

    Args:
        logits: of the Inception network.
        strata: as for `frechet_estimate`.
    Source: Salimans et al. 2016 (Improved techniques for training GANs).
    Raises:
        MetricError: fewer than two images.
    """
    n = len(logits)
    if n < 2:
        raise MetricError(f"an Inception Score needs at least 2 images, got {n}")
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    negentropy = (p * log_p).sum(1)

    def score(mean_negentropy: Tensor, mean_p: Tensor) -> Tensor:
        return (mean_negentropy - torch.xlogy(mean_p, mean_p).sum(-1)).exp()

    value = float(score(negentropy.mean(), p.mean(0)))
    without = score(
        (negentropy.sum() - negentropy) / (n - 1), ((p.sum(0) - p) / (n - 1)).clamp(min=0)
    )
    return jackknifed(value, LeftOut(without, strata=strata), least=1.0)


def _inception_score(fake: ImageFeatures, real: ImageFeatures) -> Estimate:
    assert fake.head is not None
    return inception_score(fake.vectors @ fake.head.cpu().T, fake.strata)


def _label_accuracy(fake: ImageFeatures, real: ImageFeatures) -> Estimate:
    assert fake.predicted is not None
    assert fake.labels is not None
    return share_of(fake.predicted == fake.labels, fake.strata)


INCEPTION_SCORE = Metric(
    key="inception_score",
    label="Inception Score",
    better="higher",
    needs=frozenset({"logits"}),
    compute=_inception_score,
    aliases=("is",),
)
LABEL_ACCURACY = Metric(
    key="label_accuracy",
    label="Label accuracy",
    better="higher",
    needs=frozenset({"labels", "judge"}),
    compute=_label_accuracy,
    aliases=("accuracy",),
)
