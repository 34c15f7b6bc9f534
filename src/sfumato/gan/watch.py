"""What a discriminator says of the images it sees, and how often it is right."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from sfumato.gan.losses import GANLoss, LeastSquaresLoss, Logits


def boundary(loss: GANLoss) -> float | None:
    """The logit between real and generated images; None where the loss leaves it open."""
    if isinstance(loss, LeastSquaresLoss):
        return (loss.real_target + loss.fake_target) / 2
    return None if loss.kind in ("wasserstein", "relativistic") else 0.0


def judgements(
    loss: GANLoss, real_logits: Logits, fake_logits: Logits
) -> Mapping[str, Float[Tensor, " B"]]:
    """Logits and whether they are right, an image: their means are logged.

    Where a loss knows no boundary the discriminator is right about a pair of a real and a
    generated image when it gives the real one the higher logit.
    """
    logits = {"logits/real": real_logits, "logits/generated": fake_logits}
    between = boundary(loss)
    if between is None:
        return {**logits, "accuracy/pairs": (real_logits > fake_logits).float()}
    return {
        **logits,
        "accuracy/real": (real_logits > between).float(),
        "accuracy/generated": (fake_logits < between).float(),
    }
