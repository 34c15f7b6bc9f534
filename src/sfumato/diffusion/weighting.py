"""How much each noise level counts in the loss.

Most papers state their weight w on |x_0 - predicted x_0|^2. The error of the network's own output
is smaller by c_out, so its weight is w c_out^2.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field

from sfumato.core.config import component
from sfumato.diffusion.broadcast import Times
from sfumato.diffusion.parameterization import Coefficients


class Weighting(ABC):
    """A weight for each noise level."""

    kind: str

    @abstractmethod
    def __call__(self, c: Coefficients) -> Times:
        """The factor of the squared error of the network's output."""


@component
class UniformWeighting(Weighting):
    """Every error of the network's output counts alike: L_simple when it predicts eps."""

    kind: Literal["uniform"] = "uniform"

    def __call__(self, c: Coefficients) -> Times:
        return torch.ones_like(c.alpha)


@component
class SnrWeighting(Weighting):
    """SNR on x_0, which is 1 on eps, whatever the network predicts (Salimans & Ho 2022, eq. 9)."""

    kind: Literal["snr"] = "snr"

    def __call__(self, c: Coefficients) -> Times:
        return _snr(c) * c.c_out**2


@component
class TruncatedSnrWeighting(Weighting):
    """max(SNR, 1) on x_0: noise that hides everything still counts (Salimans & Ho 2022, 4)."""

    kind: Literal["truncated_snr"] = "truncated_snr"

    def __call__(self, c: Coefficients) -> Times:
        return _snr(c).clamp(min=1) * c.c_out**2


@component
class MinSnrWeighting(Weighting):
    """min(SNR, gamma) on x_0: easy, nearly clean images count less (Hang et al. 2023, eq. 6)."""

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = 5.0

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise ValueError(f"min_snr needs gamma > 0, got {self.gamma}; the paper has 5")

    def __call__(self, c: Coefficients) -> Times:
        return _snr(c).clamp(max=self.gamma) * c.c_out**2


@component
class P2Weighting(Weighting):
    """1 / (k + SNR)^gamma on eps: unseen detail counts less (Choi et al. 2022, eq. 8)."""

    kind: Literal["p2"] = "p2"
    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.k <= 0 or self.gamma < 0:
            raise ValueError(
                f"p2 needs k > 0 and gamma >= 0, got {self.k} and {self.gamma}; the paper has 1, 1"
            )

    def __call__(self, c: Coefficients) -> Times:
        snr = _snr(c)
        return snr * c.c_out**2 / (self.k + snr) ** self.gamma


@component
class EDMWeighting(Weighting):
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on x_0 (Karras et al. 2022, table 1).

    With the edm parameterization of like `sigma_data` it is `uniform`.
    """

    kind: Literal["edm"] = "edm"
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if self.sigma_data <= 0:
            raise ValueError(f"edm needs sigma_data > 0, got {self.sigma_data}; the paper has 0.5")

    def __call__(self, c: Coefficients) -> Times:
        return (_snr(c) + self.sigma_data**-2) * c.c_out**2


@component
class FlowWeighting(Weighting):
    """1 on the velocity eps - x_0 of rectified flow, whatever the network predicts.

    Source: Lipman et al. 2023, eq. 23; Kingma & Gao 2023, table 1 for the conversion.
    """

    kind: Literal["flow"] = "flow"

    def __call__(self, c: Coefficients) -> Times:
        return ((c.alpha + c.sigma) / c.sigma) ** 2 * c.c_out**2


def _snr(c: Coefficients) -> Times:
    return (c.alpha / c.sigma) ** 2


AnyWeighting = Annotated[
    UniformWeighting
    | SnrWeighting
    | TruncatedSnrWeighting
    | MinSnrWeighting
    | P2Weighting
    | EDMWeighting
    | FlowWeighting,
    Field(discriminator="kind"),
]
