"""Which training images the floor uses, and which its feature network is trained on."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from sfumato.core.errors import ConfigError
from sfumato.core.noise import derive_seed
from sfumato.data.dataset import Dataset, Splits, permutation

Indices = Int64[np.ndarray, " _"]

LARGEST_SHARE = 0.7
"""Of the training images, at most so many are set aside for the floor."""


@dataclass(frozen=True)
class Folds:
    """Positions among the training images.

    Args:
        floor: the N images of the floor, drawn at random as the samples of a model are.
        features: the images that a feature network may be trained on; none of the floor's.
        judge: the images that the judge of labels is trained on: all that `features` leaves. Its
            own floor is its accuracy on held-out images, which neither fold contains.
    """

    floor: Indices
    features: Indices
    judge: Indices


def make_folds(splits: Splits, num_images: int | None, seed: int) -> Folds:
    """Divide the training images; which falls where depends on content and seed alone.

    Args:
        splits: the data.
        num_images: N; None: as many as the held-out split has, or as many as leave three tenths
            of the training images to learn features from.
    Raises:
        ConfigError: N is larger than the held-out split or the training images allow.
    """
    train, held_out = len(splits.train), len(splits.held_out)
    reach = int(LARGEST_SHARE * train)
    count = min(held_out, reach) if num_images is None else num_images
    if count > held_out:
        raise ConfigError(
            f"evaluation.num_images is {count}, but only {held_out} images are held out; set it "
            f"to at most {min(held_out, reach)} (or leave it out), hold out more with "
            "data.held_out, or score against the training images: sfumato evaluate RUN DATA:train"
        )
    if count > reach:
        raise ConfigError(
            f"evaluation.num_images is {count}, but of {train} training images at most {reach} "
            "can be set aside for the floor (features are learned from the others); set it to at "
            f"most {reach}, or leave it out"
        )
    if count < 4:
        raise ConfigError(
            f"an evaluation needs at least 4 images a side, and the data allow {count} "
            f"({train} training images, {held_out} held out); use more data"
        )
    order = _shuffled(splits.train, seed)
    set_aside = max(count, train // 2)
    return Folds(order[:count], order[set_aside:], order[:set_aside])


def _shuffled(train: Dataset, seed: int) -> Indices:
    """The positions in an order given by content and seed; equal images are neighbours."""
    key = np.ascontiguousarray(train.hashes[:, 16:24]).view("<u8").ravel()
    distinct, group = np.unique(key, return_inverse=True)
    rank = np.argsort(permutation(len(distinct), derive_seed("folds", seed), 0))
    order: Indices = np.argsort(rank[group], kind="stable")
    return order
