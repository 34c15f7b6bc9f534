"""A number with its interval, and variances from leaving images out.

Every metric returns an `Estimate`; `LeftOut` holds what a paired comparison of two needs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from scipy.stats import norm, t
from torch import Tensor

from sfumato.core.errors import SfumatoError

Strata = Int64[Tensor, " N"]


@dataclass(frozen=True)
class LeftOut:
    """What a statistic of N images is without some of them: how it varies from draw to draw.

    Two statistics whose image i came from the same noise can be subtracted (`minus`): the spread of
    the difference then leaves out what the noise did equally to both.

    Args:
        one: the statistic without image i.
        interaction: for pairs of images, N s - (N - 1)(s_-i + s_-j) + (N - 2) s_-ij; the pairs
            are the same for every statistic of N images. Empty: not known.
        share: fraction of the second-order bias of the jackknife's variance to subtract.
        second: fraction of the jackknife's variance to subtract if no pairs estimate it.
        strata: the classes, where their numbers were fixed in advance.
        draws: which draw each image is, where they are not all of 0 to N - 1 (one class of many).
        other: variance for reasons other than the draw of the images.
    """

    one: Float[Tensor, " N"]
    interaction: Float[Tensor, " _"] = torch.zeros(0, dtype=torch.float64)
    share: float = 1.0
    second: float = 0.0
    strata: Strata | None = None
    draws: Int64[Tensor, " N"] | None = None
    other: float = 0.0

    @property
    def variance(self) -> float:
        """Of the statistic over draws of the images.

        The jackknife counts the second-order part twice (Efron & Stein 1981, section 4); it is
        estimated from the pairs and subtracted once. At most all of the variance is of second
        order, so no less than half is left.
        """
        first = stratified_variance(self.one, self.strata)
        n = len(self.one)
        second = self.second * first
        if len(self.interaction) > 1:
            second = self.share * float(self.interaction.var()) / 2 * (n - 1) / n
        return max(first - second, first / 2) + self.other

    def pairs_with(self, other: "LeftOut") -> bool:
        """Whether the images of both come from the same draws, in the same classes."""
        ours, theirs = self.strata, other.strata
        if ours is not None and theirs is not None and not torch.equal(ours, theirs):
            return False
        return torch.equal(self._draws, other._draws)

    @property
    def _draws(self) -> Int64[Tensor, " N"]:
        return torch.arange(len(self.one)) if self.draws is None else self.draws

    def minus(self, other: "LeftOut") -> "LeftOut":
        """Of the difference of two statistics that `pairs_with` each other.

        The largest deviation counts twice, as if one image more were like it. That is nothing
        among many images of which each moves the difference a little; where few do (two models
        that are right about the same images but three) it keeps a difference of 3 : 0 from looking
        certain, as Agresti & Min 2005 (Stat. Med. 24, 729) do for paired proportions.
        """
        one = self.one - other.one
        most = float((one - one.mean()).abs().max()) * (len(one) - 1) / len(one)
        interaction = self.interaction[:0]
        if len(self.interaction) == len(other.interaction):
            interaction = self.interaction - other.interaction
        return replace(
            self,
            one=one,
            interaction=interaction,
            share=min(self.share, other.share),
            second=min(self.second, other.second),
            strata=other.strata if self.strata is None else self.strata,
            other=self.other + other.other + most**2,
        )

    @staticmethod
    def mean(parts: Sequence["LeftOut"]) -> "LeftOut":
        """Of the mean of statistics that all pair with each other."""
        first = parts[0]
        lengths = {len(part.interaction) for part in parts}
        interaction = first.interaction[:0]
        if len(lengths) == 1:
            interaction = torch.stack([part.interaction for part in parts]).mean(0)
        return replace(
            first,
            one=torch.stack([part.one for part in parts]).mean(0),
            interaction=interaction,
            share=min(part.share for part in parts),
            second=min(part.second for part in parts),
            other=math.fsum(part.other for part in parts) / len(parts) ** 2,
        )


def interaction(
    whole: Float[Tensor, ""],
    without_i: Float[Tensor, " K"],
    without_j: Float[Tensor, " K"],
    without_both: Float[Tensor, " K"],
    n: int,
) -> Float[Tensor, " K"]:
    """How much two images move a statistic of n together, beyond what they do one by one.

    Source: Efron & Stein 1981, Ann. Stat. 9, 586, section 4.
    """
    return n * whole - (n - 1) * (without_i + without_j) + (n - 2) * without_both


def stratified_variance(left_out: Float[Tensor, " N"], strata: Strata | None = None) -> float:
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


class MetricError(SfumatoError):
    """Images or features that cannot be scored as asked."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Args:
        value: the estimate.
        low, high: ends of the 95 % interval; None where none is known.
        n: the number of images it was computed from.
        standard_error: of `value` over draws of the n images; None where none is known.
        protocol: digest of what the value means; values of different digests are not compared.
        left_out: per-image jackknife terms, for paired comparisons; not written to JSON.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    standard_error: float | None
    protocol: str | None = None
    left_out: LeftOut | None = field(default=None, repr=False, compare=False)

    def to_mapping(self) -> dict[str, float | int | str | None]:
        """A plain dictionary, as written to JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "left_out"}

    @staticmethod
    def from_mapping(mapping: Mapping[str, Any]) -> "Estimate":
        """The inverse of `to_mapping`."""
        return Estimate(**mapping)


@dataclass(frozen=True)
class Excess:
    """A score beside its floor.

    Args:
        floor: the same metric between real images, at the same N.
        ratio: score / floor; None where the floor is not above 0.
        excess: score - floor.
        low, high: the 95 % interval of the excess over draws of both; None where unknown.
    """

    floor: float
    ratio: float | None
    excess: float
    low: float | None
    high: float | None

    @staticmethod
    def of(score: Estimate, floor: Estimate) -> "Excess":
        """The excess of `score`; its interval is normal, the two draws being independent."""
        excess = score.value - floor.value
        ratio = score.value / floor.value if floor.value > 0 else None
        if score.standard_error is None or floor.standard_error is None:
            return Excess(floor.value, ratio, excess, None, None)
        reach = float(norm.ppf(0.975)) * math.hypot(score.standard_error, floor.standard_error)
        return Excess(floor.value, ratio, excess, excess - reach, excess + reach)

    def to_mapping(self) -> dict[str, float | None]:
        """A plain dictionary, as written to JSON."""
        return asdict(self)


def with_standard_error(
    value: float,
    standard_error: float,
    n: int,
    least: float = -math.inf,
    most: float = math.inf,
    left_out: LeftOut | None = None,
) -> Estimate:
    """An estimate with Student's interval (n - 1), cut to the values that are possible."""
    reach = float(t.ppf(0.975, n - 1)) * standard_error
    low, high = max(value - reach, least), min(value + reach, most)
    return Estimate(value, low, high, n, standard_error, left_out=left_out)


def jackknifed(
    value: float, left_out: LeftOut, least: float = -math.inf, most: float = math.inf
) -> Estimate:
    """An estimate with the interval that leaving out images gives."""
    error = math.sqrt(left_out.variance)
    return with_standard_error(value, error, len(left_out.one), least, most, left_out)


def proportion(successes: int, n: int) -> Estimate:
    """A proportion with Wilson's interval.

    The standard error is that of the interval (its half-width over 1.96), so that it does not
    vanish at 0 and 1. Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209.

    Raises:
        MetricError: n is 0.
    """
    if n < 1:
        raise MetricError("a proportion of 0 images was asked for; give at least one image")
    z = float(norm.ppf(0.975))
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = max(0.0, centre - reach), min(1.0, centre + reach)
    return Estimate(share, low, high, n, reach / z)


def share_of(hits: Bool[Tensor, " N"], strata: Strata | None = None) -> Estimate:
    """The share of images for which something holds, with Wilson's interval.

    The strata serve paired comparisons only: the interval is that of `proportion`.
    """
    n, count = len(hits), int(hits.sum())
    found = proportion(count, n)
    if n < 2:
        return found
    return replace(found, left_out=LeftOut((count - hits.double()) / (n - 1), strata=strata))
