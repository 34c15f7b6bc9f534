"""The Fréchet distance extrapolated to infinitely many images on both sides."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.noise import generator
from sfumato.metrics.estimate import Estimate, MetricError, jackknifed
from sfumato.metrics.frechet import FrechetReference, frechet_distance
from sfumato.metrics.frechet_interval import frechet_estimate
from sfumato.metrics.jackknife import Strata

LEAST_PER_DIMENSION = 4
"""Images a side for each feature, below which the bias is not yet a straight line in 1 / N."""
HALVINGS = 4
"""Random divisions into halves, of which the mean is taken."""


def extrapolated_distance(
    fake: Float[Tensor, "N d"],
    real: Float[Tensor, "M d"],
    strata: Strata | None = None,
) -> Estimate:
    """Twice the distance of all images less the mean distance between halves.

    The bias of a Fréchet distance is a / N + b / M to first order; halving both sides doubles it,
    so this takes it off. What is left is of order (d / N)^2. The value can be negative, as every
    estimate of zero without bias.

    The idea of extrapolating in 1 / N: Chong & Forsyth 2020 (Effectively unbiased FID), there by
    a fit over many N with a fixed reference. The interval is over draws of fake images: that of
    the distance, widened by the spread over divisions.

    Args:
        fake, real: features.
        strata: as for `frechet_estimate`.
    Raises:
        MetricError: fewer than `LEAST_PER_DIMENSION` images a feature on a side.
    """
    n, m, d = len(fake), len(real), fake.shape[1]
    if min(n, m) < LEAST_PER_DIMENSION * d:
        raise MetricError(
            f"extrapolating a Fréchet distance of {d} features needs at least "
            f"{LEAST_PER_DIMENSION * d} images a side, got {n} and {m}; below that its bias is "
            "not proportional to 1 / N"
        )
    whole = frechet_estimate(fake, FrechetReference.of(real), strata)
    halves = []
    for k in range(HALVINGS):
        random = generator("halves", k)
        ours, theirs = (torch.randperm(count, generator=random) for count in (n, m))
        pairs = zip(ours.tensor_split(2), theirs.tensor_split(2), strict=True)
        distances = [frechet_distance(fake[i], FrechetReference.of(real[j])) for i, j in pairs]
        halves.append(sum(distances) / 2)
    values = torch.tensor(halves, dtype=torch.float64)
    assert whole.left_out is not None
    # To first order an image moves the extrapolated value as much as the distance itself.
    left_out = replace(whole.left_out, other=float(values.var()) / HALVINGS)
    return jackknifed(2 * whole.value - float(values.mean()), left_out)
