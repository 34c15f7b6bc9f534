"""Are samples copies of training images, or of each other?"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from sfumato.metrics.blocks import At, Rows, Smallest, blocks, mean_of, positions, read
from sfumato.metrics.estimate import Estimate, MetricError, proportion

CANDIDATES = 8
"""Nearest images by a fast product of float32 matrices, among which distances decide."""
SHARE, FACTOR = 0.01, 0.5


@dataclass(frozen=True)
class Nearest:
    """For each image its nearest image of another set: how far, and which."""

    distance: Float[Tensor, " N"]
    index: Int64[Tensor, " N"]


@dataclass(frozen=True)
class Memorization:
    """Samples against the training images, beside held-out images against the same.

    Args:
        copies: the share of samples that are suspected copies.
        held_out: the same share among the held-out images, which should be 0.
        threshold: distances below it are suspected.
        median_ratio: the samples' median distance over that of held-out images: near 1 for a
            model that generalizes, towards 0 for one that repeats its training images.
        suspects: pairs (sample, training image), the nearest first.
    """

    copies: Estimate
    held_out: Estimate
    threshold: float
    median_ratio: float
    suspects: Int64[Tensor, "S 2"]


class Mirrored:
    """Images [N, C, H, W] with left and right exchanged as they are read."""

    def __init__(self, images: Rows) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, at: At | slice) -> Shaped[Tensor, "b C H W"]:
        return self._images[at].flip(3)


def memorization(
    samples: Rows, train: Rows, held_out: Rows, mirrored: bool = False
) -> Memorization:
    """Suspect samples much nearer to a training image than held-out images ever are.

    The vectors may be features or pixels: a changed copy may be near in one and not in the other
    (docs/results/evaluation.md has how many are found). The threshold is half the distance within
    which 1 % of the held-out images have their nearest training image.

    Args:
        samples, train, held_out: the vectors.
        mirrored: they are images [N, C, H, W], and each is as near to a training image as it or
            its mirror image is: a model that was trained with flips may copy either.
    Raises:
        MetricError: an empty set.
    """
    ours, theirs = (_nearest_view(images, train, mirrored) for images in (samples, held_out))
    threshold = FACTOR * float(theirs.distance.quantile(SHARE))
    # A distance of 0 is a copy even where held-out images are copies too.
    suspected = (ours.distance < threshold) | (ours.distance == 0)
    accused = (theirs.distance < threshold) | (theirs.distance == 0)
    rows = torch.nonzero(suspected).squeeze(1)
    rows = rows[ours.distance[rows].argsort(stable=True)]
    return Memorization(
        copies=proportion(int(suspected.sum()), len(samples)),
        held_out=proportion(int(accused.sum()), len(held_out)),
        threshold=threshold,
        median_ratio=float(ours.distance.median() / theirs.distance.median().clamp(min=1e-300)),
        suspects=torch.stack([rows, ours.index[rows]], dim=1),
    )


def _nearest_view(images: Rows, train: Rows, mirrored: bool) -> Nearest:
    found = nearest(images, train)
    if not mirrored:
        return found
    turned = nearest(Mirrored(images), train)
    nearer = turned.distance < found.distance
    return Nearest(
        distance=torch.where(nearer, turned.distance, found.distance),
        index=torch.where(nearer, turned.index, found.index),
    )


def suspicious_distance(held_out: Rows, train: Rows) -> float:
    """The distance below which `memorization` suspects a copy.

    Raises:
        MetricError: an empty set.
    """
    return FACTOR * float(nearest(held_out, train).distance.quantile(SHARE))


def duplicates(samples: Rows, threshold: float) -> Estimate:
    """The share of samples with another sample nearer than `threshold`, or equal."""
    distance = nearest(samples, samples, skip_own=True).distance
    return proportion(int(((distance < threshold) | (distance == 0)).sum()), len(samples))


def diversity(samples: Rows, real: Rows) -> float:
    """The spread of the samples over that of real images: sqrt of the ratio of total variances."""
    if len(samples) < 2 or len(real) < 2:
        raise MetricError("diversity needs at least 2 images on either side")
    return math.sqrt(_total_variance(samples) / _total_variance(real))


def _total_variance(x: Rows) -> float:
    mean = mean_of(x)
    return sum(float((rows - mean).square().sum()) for _, rows in blocks(x)) / (len(x) - 1)


def nearest(images: Rows, others: Rows, skip_own: bool = False) -> Nearest:
    """The nearest of `others`; not the image itself if `skip_own`.

    Vectors may be of any type, uint8 included. Memory: O(N), both sides are read in blocks.

    Raises:
        MetricError: an empty set.
    """
    if len(images) < 1 or len(others) < 1 + skip_own:
        raise MetricError(
            f"nearest images need images on both sides, got {len(images)} and {len(others)}"
        )
    centre = mean_of(others).float()  # short vectors keep more digits in the product
    near = Smallest(len(images), min(CANDIDATES, len(others) - skip_own), torch.float32)
    for those, columns in blocks(others, torch.float32):
        columns -= centre
        squares = columns.square().sum(1)
        for at, rows in blocks(images, torch.float32):
            rows -= centre
            # Without the squares of the rows, which change no order.
            between = torch.addmm(squares, rows, columns.T, alpha=-2)
            if skip_own and at[0] == those[0]:
                between.fill_diagonal_(torch.inf)
            near.see(at, those, between)
    distances, indices = [], []
    for at in positions(images):
        x = read(images, at)
        # Differences, not a product of matrices: equal images must be at distance 0.
        exact = [(x - read(others, column)).square().sum(1) for column in near.columns[at].T]
        found = torch.stack(exact, dim=1).min(1)
        distances.append(found.values.sqrt())
        indices.append(near.columns[at].gather(1, found.indices[:, None]).squeeze(1))
    return Nearest(torch.cat(distances), torch.cat(indices))
