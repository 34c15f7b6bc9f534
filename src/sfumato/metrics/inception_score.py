"""The Inception Score, with an interval."""

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.metrics.estimate import Estimate, MetricError, jackknifed
from sfumato.metrics.jackknife import LeftOut, Strata


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
