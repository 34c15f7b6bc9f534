"""What the two players of a GAN minimize, one value an image."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.config import component

Logits = Float[Tensor, " B"]


@component
class NonSaturatingLoss:
    """Cross-entropy for the discriminator; the generator maximizes log D(G(z)).

    Source: Goodfellow et al. 2014, section 3. Label smoothing (Salimans et al. 2016, section 3.4)
    replaces the discriminator's targets 1 and 0 by `real_target` and `fake_target`; two-sided
    smoothing is 0.9 and 0.1. The generator always aims at 1.
    """

    kind: Literal["non_saturating"] = "non_saturating"
    real_target: float = 1.0
    fake_target: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.fake_target < self.real_target <= 1:
            raise ValueError(
                "non_saturating needs 0 <= fake_target < real_target <= 1, "
                f"got fake_target={self.fake_target}, real_target={self.real_target}"
            )

    def discriminator(self, real: Logits, fake: Logits) -> Float[Tensor, " B"]:
        """-[y log D(x) + (1 - y) log(1 - D(x))], summed over the real and the fake image."""
        return _cross_entropy(real, self.real_target) + _cross_entropy(fake, self.fake_target)

    def generator(self, fake: Logits) -> Float[Tensor, " B"]:
        """-log D(G(z))."""
        return F.softplus(-fake)


def _cross_entropy(logits: Logits, target: float) -> Float[Tensor, " B"]:
    """Binary cross-entropy: softplus(l) - target l."""
    return F.softplus(logits) - target * logits


GANLoss = NonSaturatingLoss
