"""How far training is, and what a run remembers: the plain values that a checkpoint keeps."""

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import pydantic
from pydantic import ConfigDict

from sfumato.core.config import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFraction,
    component,
    parse,
)
from sfumato.core.errors import ConfigError, RunError


@component
class Best:
    """The smallest Fréchet distance so far, and the images seen when it was measured."""

    images: int
    frechet_distance: float


@pydantic.dataclasses.dataclass(kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class TrainingState:
    """The trainer holds it, hooks read and change it, checkpoints keep it.

    Args:
        images: images seen.
        step: optimizer steps taken.
        seconds: time spent in training steps, without pictures, checkpoints and start-up.
        rows: number of rows in metrics.jsonl.
        row_images, row_seconds: `images` and `seconds` at the last row of losses.
        rate_factor: factor on the learning rate; below 1 after training has diverged once.
        largest_losses: of each phase, over the rows of the log; what the doctor calls usual.
        warnings: those of the doctor.
        winning_since: the step since which a discriminator wins; None when it does not.
        loss_scale: of float16, and the steps since it grew, when it was last saved; None in other
            precisions.
        best: None until a Fréchet distance was measured.
    """

    images: NonNegativeInt
    step: NonNegativeInt
    seconds: NonNegativeFloat
    rows: NonNegativeInt = 0
    row_images: NonNegativeInt = 0
    row_seconds: NonNegativeFloat = 0.0
    rate_factor: PositiveFraction = 1.0
    largest_losses: dict[str, NonNegativeFloat] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    winning_since: int | None = None
    loss_scale: tuple[float, int] | None = None
    best: Best | None = None

    def restore(self, saved: "TrainingState") -> None:
        """Take over all values of `saved`."""
        for each in dataclasses.fields(self):
            setattr(self, each.name, getattr(saved, each.name))


def initial_state() -> TrainingState:
    """The state of a run that has not begun."""
    return TrainingState(images=0, step=0, seconds=0.0)


def read_state(values: Mapping[str, Any], source: str) -> TrainingState:
    """The state of a checkpoint, checked.

    Raises:
        RunError: something is missing, unknown or of another type.
    """
    try:
        return parse(TrainingState, values, source)
    except ConfigError as error:
        raise RunError(f"{error}; the checkpoint is damaged or of another version") from None
