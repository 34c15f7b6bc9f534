"""A number with its interval: what every metric returns."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from jaxtyping import Bool
from scipy.stats import norm, t
from torch import Tensor

from sfumato.core.errors import SfumatoError
from sfumato.metrics.jackknife import LeftOut, Strata


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
        left_out: what each image does to the value, for paired comparisons; not written to JSON.
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
