"""Choosing images by their content, so that the choice survives reordering and renaming."""

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from sfumato.data.source import LabelArray

Hashes = UInt8[np.ndarray, "N 32"]
"""SHA-256 of the pixels of each image."""


def held_out_mask(
    hashes: Hashes, labels: LabelArray | None, fraction: float
) -> Bool[np.ndarray, " N"]:
    """True for the images to hold out: about `fraction` of each class.

    Equal images always fall on the same side.
    """
    chosen = choose(_part(hashes, 0), labels, round(fraction * len(hashes)))
    held = np.unique(_part(hashes, 0)[chosen])
    return np.isin(_part(hashes, 0), held)


def subset_rows(hashes: Hashes, labels: LabelArray | None, count: int) -> Int64[np.ndarray, " k"]:
    """`count` rows in their order, in the proportions of the classes; fewer are among more."""
    # Other bytes than the held-out split uses: the two choices must not depend on each other.
    return choose(_part(hashes, 1), labels, count)


def choose(
    keys: UInt64[np.ndarray, " N"], labels: LabelArray | None, count: int
) -> Int64[np.ndarray, " k"]:
    """The rows of the `count` images that come first by (rank of key in class) / class size."""
    count = min(count, len(keys))
    if labels is None:
        labels = np.zeros(len(keys), np.int64)
    order = np.lexsort((keys, labels))
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(len(keys)) - starts[labels[order]]
    # The middle of each rank's share of its class: every class is filled at the same pace.
    share = (rank + 0.5) / sizes[labels[order]]
    return np.sort(order[np.lexsort((keys[order], share))[:count]])


def first_of_each(hashes: Hashes) -> Bool[np.ndarray, " N"]:
    """True for the first of every group of equal images."""
    mask = np.zeros(len(hashes), bool)
    mask[np.unique(as_items(hashes), return_index=True)[1]] = True
    return mask


def as_items(hashes: Hashes) -> np.ndarray:
    """The hashes as one comparable item each."""
    return np.ascontiguousarray(hashes).view("V32").ravel() if len(hashes) else np.empty(0, "V32")


def _part(hashes: Hashes, which: int) -> UInt64[np.ndarray, " N"]:
    """Eight of the 32 bytes, as a number that is the same on every machine."""
    part = np.ascontiguousarray(hashes[:, 8 * which : 8 * which + 8])
    return part.view("<u8").ravel().astype(np.uint64)
