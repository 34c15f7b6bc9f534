"""The doctor: notices trouble in a run, says it in plain words, and treats divergence once."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from sfumato.core.generative_model import SelfDiagnosing
from sfumato.core.images import Images, UInt8Images
from sfumato.training.ema import AveragedWeights, ExponentialAverage
from sfumato.training.training_state import Position

EXPLODED = 100.0
"""A mean loss this many times the largest so far (or 1, if that is more) has exploded."""
LOWERED = 0.3
"""What the learning rate is multiplied by, once, when training diverges."""
SLOW_DATA = 0.5
"""Of the time; a larger share spent waiting for images is worth a warning."""
_NUMBER = re.compile(r"\d[\d.,]*(e[+-]?\d+)?|inf|nan")
CONSTANT = 0.02
"""Spread of samples as a share of that of the data, below which they are all alike."""
WON, WON_STEPS = 0.98, 2_000
"""A discriminator that is right this often for so many steps has won."""
TRAINED_ON = ("accuracy/real", "accuracy/generated", "accuracy/pairs")
"""How often it is right about what it is trained on; other columns are about other images."""
BY_HEART = 0.8
"""r_v above which a discriminator knows its training images by heart."""
MOST = 0.8
"""Of samples. The fewest classes that make this share are compared with those of the data."""
TWINS = 0.1
"""A share of samples with a twin, above that of real images, that is worth a warning."""


class Diverged(Exception):
    """The loss or the weights are lost. Not an error yet: the trainer rolls back, once."""


class Doctor:
    """Watches one run. What it says is told to the user once and kept for summary.json.

    Args:
        tell: receives each warning.
        data: some images of the training set, to compare samples with.
        class_shares: of the classes of the training set; () for none.
    """

    def __init__(
        self, tell: Callable[[str], None], data: UInt8Images, class_shares: Sequence[float] = ()
    ) -> None:
        self.warnings: list[str] = []
        self.winning_since: int | None = None
        self._class_shares = class_shares
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

    def check_discriminator(self, row: Mapping[str, float], position: Position) -> None:
        """Look at how often a discriminator is right, and about which images."""
        kinds = [row[key] for key in TRAINED_ON if key in row]
        accuracy = sum(kinds) / max(len(kinds), 1)
        if accuracy < WON:
            self.winning_since = None
        elif self.winning_since is None:
            self.winning_since = position.step
        elif position.step - self.winning_since >= WON_STEPS:
            steps = position.step - self.winning_since
            self.warn(
                f"discriminator wins: accuracy {accuracy:.2f} for {steps:,} steps, at "
                f"{position.images:,} images: the generator learns nothing more from it; try "
                "augment = { kind = 'ada' }, a stronger r1, label smoothing, input_noise, or a "
                "smaller discriminator",
            )
        r_v = row.get("overfitting/r_v", 0.0)
        if r_v >= BY_HEART:
            self.warn(
                "the discriminator knows its training images by heart: "
                f"at {position.images:,} images it takes held-out images for generated ones (r_v "
                f"= {r_v:.2f}; 0 is no difference to training images, 1 none to generated "
                "ones); augment = { kind = 'ada' } (with a smaller rise_images), more images, or "
                "a stronger r1 helps",
            )

    def check_classes(self, shares: Mapping[str, float], position: Position) -> None:
        """Compare the classes of samples with those of the data."""
        if not shares or not self._class_shares:
            return
        few = _fewest(list(shares.values()))
        if few <= _fewest(self._class_shares) / 2:
            names = sorted(shares, key=lambda name: -shares[name])[:few]
            made = sum(shares[name] for name in names)
            self.warn_once(
                "mode collapse",
                f"{few} of {len(shares)} classes make{'s' * (few == 1)} {made:.0%} of samples "
                f"({', '.join(names[:5])}) at {position.images:,} images; train longer if that is "
                "few, else go back to an earlier checkpoint (best.safetensors) or lower the "
                "learning rate; a GAN may need r1, or a discriminator that sees the spread of a "
                "batch (stylegan2)",
            )

    def check_duplicates(self, share: float, real: float, position: Position) -> None:
        """Compare the share of samples that have a twin with that of real images."""
        if share > real + TWINS:
            self.warn_once(
                "mode collapse",
                f"{share:.0%} of samples have a twin among the others (of real images {real:.0%}) "
                f"at {position.images:,} images; go back to an earlier checkpoint "
                "(best.safetensors), or train with a lower learning rate; a GAN may need r1",
            )

    def warn_once(self, trouble: str, details: str) -> None:
        """Say what the trouble is, unless that kind was told before in this run."""
        if not any(message.startswith(f"{trouble}: ") for message in self.warnings):
            self.warn(f"{trouble}: {details}")

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


def _fewest(shares: Sequence[float]) -> int:
    """The number of the largest shares that together make MOST."""
    total, count = 0.0, 0
    for share in sorted(shares, reverse=True):
        if total >= MOST - 1e-9:
            break
        total, count = total + share, count + 1
    return count
