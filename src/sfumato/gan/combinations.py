"""Which parts of a GAN go together; the others are refused with the reason."""

from collections.abc import Sequence

from sfumato.augment.discriminator import ADA, AnyDiscriminatorAugmentation
from sfumato.gan.losses import GANLoss, WassersteinLoss
from sfumato.gan.regularizers import PathLength, Regularizer
from sfumato.gan.unrolled import Unrolling
from sfumato.networks import NetworkPair


def check_combination(
    network: NetworkPair,
    loss: GANLoss,
    regularizers: Sequence[Regularizer],
    unrolled: Unrolling | None,
    augment: AnyDiscriminatorAugmentation | None,
) -> None:
    """Refuse what does not make sense together.

    Raises:
        ValueError: with the reason and the remedy.
    """
    kinds = [regularizer.kind for regularizer in regularizers]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(f"regularizers has {kind} twice; add up their weights in one")
    of_discriminator = [r.kind for r in regularizers if not isinstance(r, PathLength)]
    if network.mixes_images and of_discriminator:
        raise ValueError(
            f"{of_discriminator[0]} is about the gradient of each image's own logit, and batch "
            "normalization in the discriminator makes a logit depend on all images of the batch; "
            "set network.normalization to 'layer', 'spectral' or 'none'"
        )
    if "path_length" in kinds and not network.has_styles:
        raise ValueError(
            "path_length is measured from StyleGAN2's w, which a generator of kind "
            f"{network.kind!r} has not; use network.kind = 'stylegan2' or leave it out"
        )
    if unrolled is not None and of_discriminator:
        raise ValueError(
            f"unrolled looks ahead along the discriminator's loss without penalties, so that "
            f"{of_discriminator[0]} would make it look in a direction the discriminator does not "
            "take; leave one of the two out"
        )
    # The sign of a logit must mean something.
    if isinstance(augment, ADA) and augment.adaptive and loss.boundary is None:
        raise ValueError(
            "ada adapts its probability to the sign of the logits of real images, and the loss "
            f"{loss.kind} leaves open where their zero is; set augment.adaptive = false and "
            "augment.probability, for example to 0.2"
        )
    if isinstance(loss, WassersteinLoss):
        _check_wasserstein(network, loss, of_discriminator, unrolled)


def _check_wasserstein(
    network: NetworkPair,
    loss: WassersteinLoss,
    penalties: Sequence[str],
    unrolled: Unrolling | None,
) -> None:
    if loss.clip is None:
        if not penalties and not network.bounded_slope:
            raise ValueError(
                "the wasserstein loss is a distance only for a critic of bounded slope, and "
                "nothing bounds this one; add regularizers = [{ kind = 'gradient_penalty' }], "
                "or network.normalization = 'spectral', or loss.clip = 0.01"
            )
        return
    if penalties:
        raise ValueError(
            f"wasserstein with clip and {penalties[0]} bounds the critic twice, and clipped "
            "weights cannot reach the slope that the penalty asks for; leave one out"
        )
    if network.bounded_slope:
        raise ValueError(
            "spectral normalization divides the weights by their size, so that clipping them "
            "changes nothing; leave loss.clip out"
        )
    if unrolled is not None:
        raise ValueError(
            "unrolled looks ahead by plain gradient steps, without clipping; use "
            "gradient-free bounds (network.normalization = 'spectral') or leave one out"
        )
