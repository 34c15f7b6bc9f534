"""The doctor: warns of problems in a run in plain words, and detects divergence.

Its probe asks a discriminator about images it trains on, held-out ones and generated ones.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.generative_model import GenerativeModel, Judging, SelfDiagnosing
from sfumato.core.images import Batch, Images, UInt8Images, from_uint8
from sfumato.core.noise import Noise
from sfumato.data.dataset import Dataset, Splits
from sfumato.training.averages import AveragedWeights, ExponentialAverage
from sfumato.training.trainer import Pace, Trainer
from sfumato.training.training_state import TrainingState

EXPLODED = 100.0
"""A mean loss this many times the largest so far (or 1, if that is more) has exploded."""
LOWERED = 0.3
"""Factor on the learning rate, applied once, when training diverges."""
SLOW_DATA = 0.5
"""Share of the time; a larger share spent waiting for images is worth a warning."""
FEWEST_STEPS = 10
"""Steps before the pace of the data is judged."""
_NUMBER = re.compile(r"\d[\d.,]*(e[+-]?\d+)?|inf|nan")
CONSTANT = 0.02
"""Spread of samples as a share of that of the data, below which they are nearly identical."""
WON, WON_STEPS = 0.98, 2_000
"""A discriminator that is right this often for that many steps has won."""
TRAINED_ON = ("accuracy/real", "accuracy/generated", "accuracy/pairs")
"""How often it is right about what it is trained on; other columns are about other images."""
BY_HEART = 0.8
"""r_v above which a discriminator has memorized its training images."""
MOST = 0.8
"""The fewest classes that make up this share of samples are compared with those of the data."""
TWINS = 0.1
"""A share of samples with a twin, above that of real images, that is worth a warning."""


class Diverged(Exception):
    """The loss or the weights are unusable. Not an error yet: the loop goes back, once."""


class Doctor:
    """Watches one run. Each warning is reported once, and kept in the state for summary.json.

    Args:
        state: of the run; holds the warnings and what losses are usual.
        log: receives each warning.
        data: some images of the training set, to compare samples with.
        class_shares: of the classes of the training set; () for none.
        every: images between two looks at the trainer.
    """

    def __init__(
        self,
        state: TrainingState,
        log: Callable[[str], None],
        data: UInt8Images,
        class_shares: Sequence[float] = (),
        every: int = 0,
    ) -> None:
        self.every = every
        self.state, self._log = state, log
        self._class_shares = class_shares
        self._extremes = extreme_share(data)
        self._spread = pixel_spread(data)

    def __call__(self, trainer: Trainer) -> None:
        """Look at the last batch, the pace of the data, and what the model itself reports."""
        if trainer.batch is not None:
            self.check_images(trainer.batch.images)
        if trainer.pace.steps >= FEWEST_STEPS:
            self.check_pace(trainer.pace)
            trainer.pace = Pace()
        self.ask(trainer.model)

    def warn(self, message: str) -> None:
        """Warn once; a repeat with new numbers replaces the old text."""
        warnings = self.state.warnings
        for place, known in enumerate(warnings):
            if _NUMBER.sub("", known) == _NUMBER.sub("", message):
                warnings[place] = message
                return
        warnings.append(message)
        self._log(message)

    def check_losses(self, losses: Mapping[str, float]) -> None:
        """Look at mean losses.

        Raises:
            Diverged: one is not a number, or has exploded.
        """
        for key, value in losses.items():
            kind, _, name = key.partition("/")
            usual = self.state.largest_losses.get(key)
            if kind != "loss":
                continue
            if not math.isfinite(value):
                raise Diverged(f"the loss of {name} is {value}")
            if usual is not None and abs(value) > EXPLODED * max(usual, 1.0):
                raise Diverged(f"the loss of {name} exploded to {value:.3g} (so far {usual:.3g})")

    def remember(self, losses: Mapping[str, float]) -> None:
        """Take the mean losses of a row as usual."""
        largest = self.state.largest_losses
        for key, value in losses.items():
            if key.startswith("loss/"):
                largest[key] = max(abs(value), largest.get(key, 0.0))

    def check_images(self, images: Images) -> None:
        """Look at images as the model gets them."""
        low, high = (float(x) for x in torch.aminmax(images))
        if not (low >= -1.001 and high <= 1.001):
            self.warn(
                f"training images reach from {low:.3g} to {high:.3g}, outside [-1, 1]; "
                "check the augmentation: models and samples assume that range"
            )

    def check_pace(self, pace: Pace) -> None:
        """Compare the seconds spent waiting for images with all seconds."""
        if pace.passed > 0 and pace.waited > SLOW_DATA * pace.passed:
            self.warn(
                "the data are slower than the model: most of the time goes into waiting for "
                "images; put the cache on a faster disk (SFUMATO_CACHE), or train at a lower "
                "data.resolution"
            )

    def check_averages(self, averages: list[AveragedWeights]) -> None:
        """Look at how much of the first average is untrained weights."""
        if not averages or not isinstance(averages[0].profile, ExponentialAverage):
            return
        images = self.state.images
        half_life = averages[0].profile.half_life(images)
        if half_life >= images > 0:
            self.warn(
                f"the weight average has a half-life of {half_life:,.0f} images, longer than the "
                "run so far: samples are drawn mostly with untrained weights; give it a smaller "
                "half_life_images or rampup"
            )

    def check_samples(self, samples: UInt8Images) -> None:
        """Compare the picture's samples with the data."""
        at = f"at {self.state.images:,} images"
        if extreme_share(samples) > (1 + self._extremes) / 2:
            self.warn(
                f"the samples are saturated {at}: {extreme_share(samples):.0%} of their values are "
                f"black or white (of the data {self._extremes:.0%}); a lower learning rate, or "
                "less guidance, helps"
            )
        if pixel_spread(samples) < CONSTANT * self._spread:
            self.warn(
                f"the samples are nearly identical {at}: the model has collapsed, or has not "
                "learned yet; train longer, or at a lower learning rate"
            )

    def check_discriminator(self, row: Mapping[str, float]) -> None:
        """Look at how often a discriminator is right, and about which images."""
        state = self.state
        kinds = [row[key] for key in TRAINED_ON if key in row]
        accuracy = sum(kinds) / max(len(kinds), 1)
        if accuracy < WON:
            state.winning_since = None
        elif state.winning_since is None:
            state.winning_since = state.step
        elif state.step - state.winning_since >= WON_STEPS:
            self.warn(
                f"discriminator wins: accuracy {accuracy:.2f} for "
                f"{state.step - state.winning_since:,} steps, at {state.images:,} images: the "
                "generator learns nothing more from it; try augment = { kind = 'ada' }, a stronger "
                "r1, label smoothing, input_noise, or a smaller discriminator",
            )
        r_v = row.get("overfitting/r_v", 0.0)
        if r_v >= BY_HEART:
            self.warn(
                "the discriminator has memorized its training images: at "
                f"{self.state.images:,} images it takes held-out images for generated ones (r_v = "
                f"{r_v:.2f}; 0 is no difference to training images, 1 none to generated ones); "
                "augment = { kind = 'ada' } (with a smaller rise_images), more images, or "
                "a stronger r1 helps",
            )

    def check_classes(self, shares: Mapping[str, float]) -> None:
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
                f"({', '.join(names[:5])}) at {self.state.images:,} images; train longer if that "
                "is few, else go back to an earlier checkpoint (best.safetensors) or lower the "
                "learning rate; a GAN may need r1, or a discriminator that sees the spread of a "
                "batch (stylegan2)",
            )

    def check_duplicates(self, share: float, real: float) -> None:
        """Compare the share of samples that have a twin with that of real images."""
        if share > real + TWINS:
            self.warn_once(
                "mode collapse",
                f"{share:.0%} of samples have a twin among the others (of real images {real:.0%}) "
                f"at {self.state.images:,} images; go back to an earlier checkpoint "
                "(best.safetensors), or train with a lower learning rate; a GAN may need r1",
            )

    def warn_once(self, trouble: str, details: str) -> None:
        """Warn, unless there was a warning of that kind before in this run."""
        if not any(message.startswith(f"{trouble}: ") for message in self.state.warnings):
            self.warn(f"{trouble}: {details}")

    def ask(self, model: nn.Module) -> None:
        """Pass on the warnings of the model itself."""
        if isinstance(model, SelfDiagnosing):
            for message in model.warnings():
                self.warn(message)


def extreme_share(images: UInt8Images) -> float:
    """The share of values that are 0 or 255."""
    return float(((images == 0) | (images == 255)).float().mean())


def pixel_spread(images: UInt8Images) -> float:
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


IMAGES = 128
"""Number of images of each kind; the real ones are always the same."""


class DiscriminatorProbe:
    """Measures a discriminator on training images, held-out images and samples.

    All without augmentation and noise, so that the three compare.
    """

    def __init__(self, splits: Splits) -> None:
        count = min(IMAGES, len(splits.train), len(splits.held_out))
        self._seen = _evenly_spaced(splits.train, count)
        self._held_out = _evenly_spaced(splits.held_out, count)

    def look(self, model: GenerativeModel, batch_size: int) -> dict[str, float]:
        """Mean logits, accuracies and r_v; nothing for a model without a discriminator.

        An accuracy is the share of images on the right side of the boundary between real and
        generated ones. Where the loss has no boundary, it is the share of real images whose logit
        is higher than that of the generated image of the same number. r_v tells where held-out
        images lie between training images (0) and generated ones (1): at 1 the discriminator has
        memorized its training images.

        Args:
            batch_size: that of training: some discriminators compare the images of a batch.
        Source: Karras et al. 2020 (ADA), eq. 1.
        """
        if not isinstance(model, Judging):
            return {}
        with torch.no_grad(), _undisturbed(model):
            seen = _logits(model, self._seen, batch_size)
            held_out = _logits(model, self._held_out, batch_size)
            labels = self._held_out.labels if model.num_classes else None
            model.eval()
            images = model.sample(labels, Noise(range(len(self._held_out))))
            model.train()
            generated = _logits(model, Batch(images, labels), batch_size)
        found = {"logits/seen": seen, "logits/held_out": held_out, "logits/sampled": generated}
        means = {name: float(logits.mean()) for name, logits in found.items()}
        for name in ("seen", "held_out"):
            above = generated if model.boundary is None else model.boundary
            right = (found[f"logits/{name}"] > above).float()
            means[f"accuracy/{name}"] = float(right.mean())
        if model.boundary is not None:
            means["accuracy/sampled"] = float((generated < model.boundary).float().mean())
        gap = means["logits/seen"] - means["logits/sampled"]
        if gap > 0:
            r_v = (means["logits/seen"] - means["logits/held_out"]) / gap
            means["overfitting/r_v"] = min(max(r_v, -1.0), 2.0)
        return means


def class_shares(dataset: Dataset) -> list[float]:
    """The share of each class; [] for a data set without labels."""
    if dataset.labels is None:
        return []
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    return [float(share) for share in counts / len(dataset)]


def _evenly_spaced(dataset: Dataset, count: int) -> Batch:
    rows = np.unique(np.linspace(0, len(dataset) - 1, count).astype(np.int64))
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[rows])
    return Batch(from_uint8(dataset.take(rows)), labels)


def _logits(model: Judging, batch: Batch, size: int) -> Float[Tensor, " N"]:
    parts = [batch.part(slice(k, k + size)) for k in range(0, len(batch), size)]
    return torch.cat([model.logits(part).float().cpu() for part in parts])


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Restores buffers, such as batch statistics, and the mode on exit."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    try:
        yield
    finally:
        model.train(training)
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
