"""Variances from leaving images out."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def stratified_variance(
    left_out: Float[Tensor, " N"], strata: Int64[Tensor, " N"] | None = None
) -> float:
    """The delete-one jackknife's variance of a statistic.

    With strata, that over draws in which the number of images of each stratum is fixed; a stratum
    of one image has no spread of its own to measure and adds nothing.

    Args:
        left_out: the statistic without image i.
        strata: the stratum (class) of each image; None: one for all.
    Source: Efron & Stein 1981, Ann. Stat. 9, 586.
    """
    if strata is None:
        strata = torch.zeros(len(left_out), dtype=torch.int64, device=left_out.device)
    strata = strata.to(left_out.device)
    count = torch.bincount(strata).to(left_out)
    mean = torch.zeros_like(count).index_add_(0, strata, left_out) / count.clamp(min=1)
    squares = torch.zeros_like(count).index_add_(0, strata, (left_out - mean[strata]).square())
    return float(((count - 1).clamp(min=0) / count.clamp(min=1) * squares).sum())


def second_order_variance(
    whole: Float[Tensor, ""],
    without_i: Float[Tensor, " K"],
    without_j: Float[Tensor, " K"],
    without_both: Float[Tensor, " K"],
    n: int,
) -> float:
    """What the jackknife's variance has too much: the variance of the statistic's second order.

    Args:
        whole: the statistic of all n images.
        without_i, without_j, without_both: the statistic without one or both of random pairs.
    Source: Efron & Stein 1981, section 4.
    """
    interaction = n * whole - (n - 1) * (without_i + without_j) + (n - 2) * without_both
    return float(interaction.var() / 2 * (n - 1) / n)
