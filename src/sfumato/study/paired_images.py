"""Two models image by image: how much of a sample stays when something in training changes.

Image i of either model comes from the same seed, the same noise and the same class. Two models
that learned the same function draw the same images; unrelated ones draw pairs that differ as much
as images of different seeds do.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from sfumato.core.files import atomic_path
from sfumato.core.images import UInt8Images
from sfumato.core.pictures import image_grid
from sfumato.core.tensors import read_tensors
from sfumato.metrics.estimate import Estimate, with_standard_error

COLUMNS = 8
SHOWN = 32


def change(a: Float[Tensor, "N d"], b: Float[Tensor, "N d"]) -> Estimate:
    """Mean squared distance of the pairs over that of images of different seeds.

    0: nothing changed. 1: a pair is as unlike as two images of different seeds: everything
    changed. The ratio is that of two means, its standard error from the delete-one jackknife.

    Args:
        a, b: row i of both from seed i; pixels or features.
    """
    a, b = a.double(), b.double()
    n = len(a)
    matched = (a - b).square().sum(1)
    norm_a, norm_b = a.square().sum(1), b.square().sum(1)
    to_b = norm_a * n + norm_b.sum() - 2 * a @ b.sum(0)  # from row i of a to all of b
    to_a = norm_b * n + norm_a.sum() - 2 * b @ a.sum(0)
    unmatched = (to_b - matched).sum()
    value = _ratio(matched.sum(), unmatched, n)
    # Without image i: its pair, its row and its column are gone.
    left = unmatched - (to_b - matched) - (to_a - matched)
    without = _ratio(matched.sum() - matched, left, n - 1)
    error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    return with_standard_error(float(value), float(error), n, least=0.0)


def _ratio(matched: Tensor, unmatched: Tensor, n: int) -> Tensor:
    return (matched / n) / (unmatched / (n * (n - 1))).clamp_min(1e-300)


def compare_runs(a: Path, b: Path, picture: Path) -> tuple[Estimate, Estimate]:
    """Compare the samples that two runs keep, and draw them in alternating rows.

    Args:
        a, b: files of `measure`.
        picture: where to draw.
    Returns:
        The change of pixels and of features.
    """
    left, right = read_tensors(a), read_tensors(b)
    pixels = [side["images"].flatten(1).float() for side in (left, right)]
    _draw(left["images"], right["images"], picture)
    return change(pixels[0], pixels[1]), change(left["features"], right["features"])


def _draw(a: UInt8Images, b: UInt8Images, path: Path) -> None:
    rows: list[UInt8[np.ndarray, "k C H W"]] = []
    for start in range(0, min(SHOWN, len(a) // COLUMNS * COLUMNS), COLUMNS):
        rows += [np.asarray(side[start : start + COLUMNS]) for side in (a, b)]
    with atomic_path(path) as temporary:
        image_grid(np.concatenate(rows), COLUMNS).save(temporary, "PNG")
