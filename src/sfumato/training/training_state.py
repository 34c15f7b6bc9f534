"""How far training is, and what a checkpoint keeps of a run beside tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sfumato.core.config import component, parse
from sfumato.core.errors import ConfigError, RunError


@dataclass
class Position:
    """How far training is."""

    images: int = 0
    step: int = 0
    seconds: float = 0.0
    """Time spent in training steps; pictures, checkpoints and start-up do not count."""


@component
class Best:
    """The smallest Fréchet distance so far, and the position it was measured at."""

    images: int
    frechet_distance: float


@component
class SavedState:
    """The plain values of a checkpoint.

    Args:
        images, step, seconds: the position.
        rows: in metrics.jsonl.
        row_images, row_seconds: the position of the last of them.
        rate_factor: on the learning rate; below 1 once the doctor has lowered it.
        largest_losses: of each phase, over the rows of the log: what the doctor calls usual.
        warnings: of the doctor.
        winning_since: the step since which a discriminator wins; None when it does not.
        loss_scale: of float16 and the steps since it grew; None in other precisions.
        best: None until a Fréchet distance was measured.
    """

    images: int
    step: int
    seconds: float
    rows: int = 0
    row_images: int = 0
    row_seconds: float = 0.0
    rate_factor: float = 1.0
    largest_losses: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    winning_since: int | None = None
    loss_scale: tuple[float, int] | None = None
    best: Best | None = None

    def __post_init__(self) -> None:
        whole = (self.images, self.step, self.rows, self.row_images)
        numbers = (self.seconds, self.row_seconds, *self.largest_losses.values())
        good = min(whole) >= 0 and all(math.isfinite(x) and x >= 0 for x in numbers)
        if not good or not 0 < self.rate_factor <= 1:
            raise ValueError("positions, times and losses should be finite and not below 0")


def read_state(state: Mapping[str, Any], source: str) -> SavedState:
    """The plain values of a checkpoint, checked.

    Raises:
        RunError: something is missing, unknown or of another type.
    """
    try:
        return parse(SavedState, state, source)
    except ConfigError as error:
        raise RunError(f"{error}; the checkpoint is damaged or of another version") from None
