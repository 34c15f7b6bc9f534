"""The doctor: notices trouble in a run, says it in plain words, and treats divergence once."""

import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import nn

from sfumato.core.images import Images, UInt8Images
from sfumato.core.model import SelfDiagnosing
from sfumato.run.ema import AveragedWeights, ExponentialAverage
from sfumato.run.position import Position

EXPLODED = 100.0
"""A mean loss this many times the largest so far (or 1, if that is more) has exploded."""
LOWERED = 0.3
"""What the learning rate is multiplied by, once, when training diverges."""
SLOW_DATA = 0.5
"""Of the time; a larger share spent waiting for images is worth a warning."""
_NUMBER = re.compile(r"\d[\d.,]*(e[+-]?\d+)?|inf|nan")
CONSTANT = 0.02
"""Spread of samples as a share of that of the data, below which they are all alike."""


class Diverged(Exception):
    """The loss or the weights are lost. Not an error yet: the trainer rolls back, once."""


class Doctor:
    """Watches one run. What it says is told to the user once and kept for summary.json.

    Args:
        tell: receives each warning.
        data: some images of the training set, to compare samples with.
    """

    def __init__(self, tell: Callable[[str], None], data: UInt8Images) -> None:
        self.warnings: list[str] = []
        self.largest_losses: dict[str, float] = {}
        self._tell = tell
        self._extremes = extreme_share(data)
        self._spread = spread(data)

    def warn(self, message: str) -> None:
        """Say it, unless it was said before in this run; with other numbers it is the same.

        The newest numbers are kept.
        """
        for place, known in enumerate(self.warnings):
            if _NUMBER.sub("", known) == _NUMBER.sub("", message):
                self.warnings[place] = message
                return
        self.warnings.append(message)
        self._tell(message)

    def check_losses(self, losses: Mapping[str, float]) -> None:
        """Look at the mean losses of the last row.

        Raises:
            Diverged: one is not a number, or has exploded.
        """
        for key, value in losses.items():
            kind, _, name = key.partition("/")
            usual = self.largest_losses.get(key)
            if kind != "loss":
                continue
            if not math.isfinite(value):
                raise Diverged(f"the loss of {name} is {value}")
            if usual is not None and abs(value) > EXPLODED * max(usual, 1.0):
                raise Diverged(f"the loss of {name} exploded to {value:.3g} (so far {usual:.3g})")

    def remember(self, losses: Mapping[str, float]) -> None:
        """Take the mean losses of a row as usual."""
        for key, value in losses.items():
            if key.startswith("loss/"):
                self.largest_losses[key] = max(abs(value), self.largest_losses.get(key, 0.0))

    def check_images(self, images: Images) -> None:
        """Look at images as the model gets them."""
        low, high = (float(x) for x in torch.aminmax(images))
        if not (low >= -1.001 and high <= 1.001):
            self.warn(
                f"training images reach from {low:.3g} to {high:.3g}, outside [-1, 1]; "
                "check the augmentation: models and samples assume that range"
            )

    def check_pace(self, waiting: float, total: float) -> None:
        """Compare the seconds spent waiting for images with all seconds."""
        if total > 0 and waiting > SLOW_DATA * total:
            self.warn(
                "the data are slower than the model: most of the time goes into waiting for "
                "images; put the cache on a faster disk (SFUMATO_CACHE), or train at a lower "
                "data.resolution"
            )

    def check_averages(self, averages: list[AveragedWeights], position: Position) -> None:
        """Look at how much of the first average is untrained weights."""
        if not averages or not isinstance(averages[0].profile, ExponentialAverage):
            return
        half_life = averages[0].profile.half_life(position.images)
        if half_life >= position.images > 0:
            self.warn(
                f"the weight average has a half-life of {half_life:,.0f} images, longer than the "
                "run so far: samples are drawn mostly with untrained weights; give it a smaller "
                "half_life_images or rampup"
            )

    def check_samples(self, samples: UInt8Images, position: Position) -> None:
        """Compare the picture's samples with the data."""
        at = f"at {position.images:,} images"
        if extreme_share(samples) > (1 + self._extremes) / 2:
            self.warn(
                f"the samples are saturated {at}: {extreme_share(samples):.0%} of their values are "
                f"black or white (of the data {self._extremes:.0%}); a lower learning rate, or "
                "less guidance, helps"
            )
        if spread(samples) < CONSTANT * self._spread:
            self.warn(
                f"the samples are all alike {at}: the model has collapsed, or has not learned yet; "
                "train longer, or at a lower learning rate"
            )

    def ask(self, model: nn.Module) -> None:
        """Hear what the model itself finds wrong."""
        if isinstance(model, SelfDiagnosing):
            for message in model.warnings():
                self.warn(message)


def extreme_share(images: UInt8Images) -> float:
    """The share of values that are 0 or 255."""
    return float(((images == 0) | (images == 255)).float().mean())


def spread(images: UInt8Images) -> float:
    """Mean over pixels of the standard deviation over images."""
    return float(images.float().std(0, correction=0).mean())
