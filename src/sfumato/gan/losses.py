"""What the two players of a GAN minimize, one value per image. Logits are high for real images.

A loss states three facts. `paired`: the generator's part needs the logits of real images too.
`zero_sum`: a generator that sees the discriminator a few steps ahead gets both logits, and
minimizes the discriminator's loss with the other sign. `compares_logits`: only differences of
logits count, so that no logit lies between real and generated images.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.config import PositiveFloat, component

Logits = Float[Tensor, " B"]


class AdversarialLoss(ABC):
    """The losses of both players."""

    paired: ClassVar[bool] = False
    zero_sum: ClassVar[bool] = False
    compares_logits: ClassVar[bool] = False
    kind: str

    @property
    def boundary(self) -> float | None:
        """The logit between real and generated images; None where the loss leaves it open."""
        return None if self.compares_logits else 0.0

    @abstractmethod
    def discriminator(self, real: Logits, fake: Logits) -> Float[Tensor, " B"]:
        """The discriminator's loss, summed over the real and the generated image."""

    @abstractmethod
    def generator(self, fake: Logits, real: Logits | None) -> Float[Tensor, " B"]:
        """The generator's loss; `real` is given if the loss is paired or the game is unrolled."""


class SmoothedLoss(AdversarialLoss):
    """A loss with labels `real_target` and `fake_target`; cross-entropy unless overridden."""

    real_target: float
    fake_target: float

    def discriminator(self, real: Logits, fake: Logits) -> Float[Tensor, " B"]:
        """-[y log D(x) + (1 - y) log(1 - D(x))], summed over the real and the fake image."""
        return _cross_entropy(real, self.real_target) + _cross_entropy(fake, self.fake_target)

    def __post_init__(self) -> None:
        if not 0 <= self.fake_target < self.real_target <= 1:
            raise ValueError(
                f"{self.kind} needs 0 <= fake_target < real_target <= 1, "
                f"got fake_target={self.fake_target}, real_target={self.real_target}"
            )


@component
class NonSaturatingLoss(SmoothedLoss):
    """Cross-entropy for the discriminator; the generator maximizes log D(G(z)).

    Source: Goodfellow et al. 2014, section 3. Label smoothing (Salimans et al. 2016, section 3.4)
    replaces the discriminator's targets 1 and 0 by `real_target` and `fake_target`; two-sided
    smoothing is 0.9 and 0.1. The generator always aims at 1.
    """

    kind: Literal["non_saturating"] = "non_saturating"
    real_target: float = 1.0
    fake_target: float = 0.0

    def generator(self, fake: Logits, real: Logits | None) -> Float[Tensor, " B"]:
        """-log D(G(z))."""
        return F.softplus(-fake)


@component
class MinimaxLoss(SmoothedLoss):
    """The zero-sum game: the generator minimizes log(1 - D(G(z))), which saturates.

    The game's other term, log D(x), has no gradient for the generator, unless the discriminator
    is one that looks ahead (`unrolled`). Source: Goodfellow et al. 2014, eq. 1. Label smoothing
    as in `non_saturating`.
    """

    zero_sum: ClassVar[bool] = True
    kind: Literal["minimax"] = "minimax"
    real_target: float = 1.0
    fake_target: float = 0.0

    def generator(self, fake: Logits, real: Logits | None) -> Float[Tensor, " B"]:
        """log(1 - D(G(z))); with `real` the whole game: minus the discriminator's loss."""
        return -F.softplus(fake) if real is None else -self.discriminator(real, fake)


@component
class LeastSquaresLoss(SmoothedLoss):
    """Half the squared distance of the logit from its target (Mao et al. 2017, eq. 9).

    Label smoothing as in `non_saturating`; the generator always aims at 1.
    """

    kind: Literal["least_squares"] = "least_squares"
    real_target: float = 1.0
    fake_target: float = 0.0

    def discriminator(self, real: Logits, fake: Logits) -> Float[Tensor, " B"]:
        """[(D(x) - real_target)^2 + (D(G(z)) - fake_target)^2] / 2."""
        return ((real - self.real_target).square() + (fake - self.fake_target).square()) / 2

    def generator(self, fake: Logits, real: Logits | None) -> Float[Tensor, " B"]:
        """(D(G(z)) - 1)^2 / 2."""
        return (fake - 1).square() / 2

    @property
    def boundary(self) -> float | None:
        """Half-way between the two targets."""
        return (self.real_target + self.fake_target) / 2


@component
class Unlabelled(AdversarialLoss):
    """A loss without labels 1 and 0, which therefore refuses to smooth them."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_smoothing(cls, values: Any) -> Any:
        given = values if isinstance(values, dict) else getattr(values, "kwargs", None) or {}
        for key in ("real_target", "fake_target"):
            if key in given:
                raise ValueError(
                    f"{key} smooths labels, and this loss has none: its discriminator pushes "
                    "logits apart and does not aim at 1 and 0; leave it out, or use "
                    "non_saturating, minimax or least_squares"
                )
        return values


@component
class HingeLoss(Unlabelled):
    """The discriminator wants a margin of 1 on either side of 0.

    Source: Lim & Ye 2017; Miyato et al. 2018 (SNGAN), eqs. 16 and 17.
    """

    kind: Literal["hinge"] = "hinge"

    def discriminator(self, real: Logits, fake: Logits) -> Float[Tensor, " B"]:
        """max(0, 1 - D(x)) + max(0, 1 + D(G(z)))."""
        return F.relu(1 - real) + F.relu(1 + fake)

    def generator(self, fake: Logits, real: Logits | None) -> Float[Tensor, " B"]:
        """-D(G(z))."""
        return -fake


@component
class WassersteinLoss(Unlabelled):
    """The difference of the mean logits, of a critic that must be Lipschitz.

    Args:
        clip: the critic's weights are clipped to [-clip, clip] after each of its steps; None:
            gradient_penalty or spectral normalization bound it.
    Source: Arjovsky et al. 2017, algorithm 1 (clip 0.01, five critic steps, RMSprop at 5e-5).
    """

    zero_sum: ClassVar[bool] = True
    compares_logits: ClassVar[bool] = True
    kind: Literal["wasserstein"] = "wasserstein"
    clip: PositiveFloat | None = None

    def discriminator(self, real: Logits, fake: Logits) -> Float[Tensor, " B"]:
        """D(G(z)) - D(x)."""
        return fake - real

    def generator(self, fake: Logits, real: Logits | None) -> Float[Tensor, " B"]:
        """-D(G(z)); with `real` the whole game: D(x) - D(G(z))."""
        return -fake if real is None else real - fake


@component
class RelativisticLoss(Unlabelled):
    """Each generated image against one real one: which looks more real?

    With R1 and R2 this game converges locally. Source: Jolicoeur-Martineau 2018 (RSGAN); Huang et
    al. 2024 (R3GAN), section 2.
    """

    paired: ClassVar[bool] = True
    compares_logits: ClassVar[bool] = True
    kind: Literal["relativistic"] = "relativistic"

    def discriminator(self, real: Logits, fake: Logits) -> Float[Tensor, " B"]:
        """-log sigmoid(D(x) - D(G(z)))."""
        return F.softplus(fake - real)

    def generator(self, fake: Logits, real: Logits | None) -> Float[Tensor, " B"]:
        """-log sigmoid(D(G(z)) - D(x))."""
        assert real is not None, "a relativistic generator needs the logits of real images"
        return F.softplus(real - fake)


def _cross_entropy(logits: Logits, target: float) -> Float[Tensor, " B"]:
    """Binary cross-entropy: softplus(l) - target l."""
    return F.softplus(logits) - target * logits


GANLoss = Annotated[
    NonSaturatingLoss
    | MinimaxLoss
    | LeastSquaresLoss
    | HingeLoss
    | WassersteinLoss
    | RelativisticLoss,
    Field(discriminator="kind"),
]


def logits_and_accuracy(
    loss: GANLoss, real_logits: Logits, fake_logits: Logits
) -> Mapping[str, Float[Tensor, " B"]]:
    """Logits, and whether they are right, one value per image; the log has the means.

    Without a boundary the discriminator is right about a pair of a real and a generated image when
    the real one has the higher logit.
    """
    logits = {"logits/real": real_logits, "logits/generated": fake_logits}
    between = loss.boundary
    if between is None:
        return {**logits, "accuracy/pairs": (real_logits > fake_logits).float()}
    return {
        **logits,
        "accuracy/real": (real_logits > between).float(),
        "accuracy/generated": (fake_logits < between).float(),
    }
