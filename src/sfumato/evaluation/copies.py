"""Are generated images copies of training images, or of each other?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sfumato.core.files import atomic_path
from sfumato.core.images import UInt8Images
from sfumato.core.pictures import GUTTER, image_grid
from sfumato.data.dataset import Splits
from sfumato.evaluation.feature_cache import FeatureCache, Pictures
from sfumato.evaluation.image_sources import draw
from sfumato.metrics.estimate import Estimate
from sfumato.metrics.memorization import Memorization, diversity, duplicates, memorization

PAIRS = "memorization.png"
"""The picture of suspected copies, in the directory of a run."""
SHOWN = 24
"""Pairs in the picture."""
COLUMNS = 6
"""Pairs side by side."""
LARGE = 64
"""Pixels per side to which small images are enlarged, to be judged by eye."""


@dataclass(frozen=True)
class Copies:
    """Copies and variety of a set of generated images.

    Args:
        features, pixels: suspected copies of training images, by either kind of distance; in pixels
            of their mirror images too.
        duplicates: the share of images with a twin among the others (in features, within the
            distance at which a training image would be suspected).
        real_duplicates: the same share among held-out images.
        diversity: spread in feature space over that of held-out images; 1 is as varied.
        shown: the first `SHOWN` of `pairs`, generated image and nearest training image.
    """

    features: Memorization
    pixels: Memorization
    duplicates: Estimate
    real_duplicates: Estimate
    diversity: float
    shown: UInt8[Tensor, "K 2 C H W"]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(generated, training) suspects of either kind, the nearest by features first."""
        return _pairs(self.features, self.pixels)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as written to JSON."""

        def one(found: Memorization) -> dict[str, Any]:
            return {
                "copies": found.copies.to_mapping(),
                "held_out": found.held_out.to_mapping(),
                "threshold": found.threshold,
                "median_ratio": found.median_ratio,
            }

        return {
            "features": one(self.features),
            "pixels": one(self.pixels),
            "duplicates": self.duplicates.to_mapping(),
            "real_duplicates": self.real_duplicates.to_mapping(),
            "diversity": self.diversity,
            "pairs": [list(pair) for pair in self.pairs],
        }


def find_copies(
    images: UInt8Images | Pictures,
    features: Float[Tensor, "N d"],
    splits: Splits,
    cache: FeatureCache,
) -> Copies:
    """Compare images with all training images, beside as many held-out images.

    Args:
        images: those under suspicion.
        features: theirs.
        splits: the images they may be copies of, and those they cannot be.
        cache: computes the features of these, or reads them.
    Raises:
        MetricError: an empty set, or fewer than two images to compare with each other.
    """
    count = len(splits.held_out)
    honest = [(splits.held_out, np.sort(draw(min(len(features), count), count, seed=0)))]
    known = [(splits.train, np.arange(len(splits.train)))]
    train, held_out = (cache.parts(parts).vectors for parts in (known, honest))
    by_features = memorization(features, train, held_out)
    originals = Pictures(known)
    by_pixels = memorization(images, originals, Pictures(honest), mirrored=True)
    shown = torch.tensor(_pairs(by_features, by_pixels)[:SHOWN], dtype=torch.int64).reshape(-1, 2)
    return Copies(
        features=by_features,
        pixels=by_pixels,
        duplicates=duplicates(features, by_features.threshold),
        real_duplicates=duplicates(held_out, by_features.threshold),
        diversity=diversity(features, held_out),
        shown=torch.stack([images[shown[:, 0]], originals[shown[:, 1]]], dim=1),
    )


def save_pairs(copies: Copies, path: Path) -> bool:
    """Draw suspected copies, generated image to the left of its nearest training image.

    Returns:
        Whether there are any; without them no picture is written.
    """
    count, _, channels, height, width = copies.shown.shape
    if not count:
        return False
    line = torch.full((count, channels, height, 1), GUTTER, dtype=torch.uint8)
    pairs = torch.cat([copies.shown[:, 0], line, copies.shown[:, 1]], dim=3)
    scale = max(1, LARGE // max(height, width))
    with atomic_path(path) as temporary:
        # Wide gaps between the pairs say which two images belong together.
        picture = image_grid(np.asarray(pairs), min(COLUMNS, count), scale, padding=8 * scale)
        picture.save(temporary, "PNG")
    return True


def _pairs(*kinds: Memorization) -> list[tuple[int, int]]:
    """(generated, training) suspects of all kinds, each once."""
    found = [pair for kind in kinds for pair in kind.suspects.tolist()]
    return list(dict.fromkeys((int(i), int(j)) for i, j in found))
