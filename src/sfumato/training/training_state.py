"""How far training is, and the mean losses since the last row of the log: a checkpoint has both."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import field
from itertools import pairwise
from typing import Any

import pydantic
import torch
from jaxtyping import Float
from pydantic import ConfigDict
from torch import Tensor

from sfumato.core import distributed
from sfumato.core.config import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFraction,
    component,
    parse,
)
from sfumato.core.errors import ConfigError, RunError

EDGES = (-9.0, -6.0, -3.0, 0.0, 3.0, 6.0, 9.0)
"""Between the bins of log-SNR; the first and the last bin are open."""
BIN_NAMES = tuple(
    f"loss_by_log_snr/{low:g} to {high:g}" for low, high in pairwise((-math.inf, *EDGES, math.inf))
)


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


class LossMeans:
    """Sums of losses and numbers of images, kept on the device so that no step waits for it.

    Each process has totals of its own; only their sum over processes has a meaning.
    """

    def __init__(self, device: torch.device) -> None:
        self._totals: dict[str, Float[Tensor, "2 bins"]] = {}
        self._edges = torch.tensor(EDGES, dtype=torch.float64)
        self._device = device

    def add(self, phase: str, losses: Float[Tensor, " B"]) -> None:
        """Count the losses of some images in a phase."""
        self.observe(f"loss/{phase}", losses)

    def observe(self, name: str, values: Float[Tensor, " B"]) -> None:
        """Count values of any kind, one per image."""
        total = self._total(name, 1)
        total[0] += values.detach().float().sum()
        total[1] += len(values)

    def add_levels(self, errors: Float[Tensor, " B"], log_snr: Float[Tensor, " B"]) -> None:
        """Count errors in the bins of their log-SNR."""
        bins = torch.bucketize(log_snr.detach().to(self._edges), self._edges).to(self._device)
        total = self._total("loss_by_log_snr", len(BIN_NAMES))
        errors = errors.detach().float()
        total.index_add_(1, bins, torch.stack([errors, torch.ones_like(errors)]))

    def _total(self, name: str, bins: int) -> Float[Tensor, "2 bins"]:
        if name not in self._totals:
            self._totals[name] = torch.zeros(2, bins, device=self._device)
        return self._totals[name]

    def gather(self) -> None:
        """Move the totals of all processes to the main one; the others start again at zero."""
        for name in sorted(self._totals):
            total = distributed.all_reduce_sum(self._totals[name])
            if not distributed.is_main():
                total.zero_()

    def means(self) -> dict[str, float]:
        """The mean of each loss and bin since `clear`, the same in every process."""
        found: dict[str, float] = {}
        for name in sorted(self._totals):
            total = self._totals[name].clone()
            sums, counts = distributed.all_reduce_sum(total).tolist()
            names = (name,) if len(sums) == 1 else BIN_NAMES
            for label, value, count in zip(names, sums, counts, strict=True):
                if count:
                    found[label] = value / count
        return found

    def clear(self) -> None:
        """Begin a new row."""
        self._totals.clear()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, after `gather`."""
        return dict(self._totals)

    def load(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Continue with saved totals.

        Raises:
            RunError: they have another shape.
        """
        for name, tensor in tensors.items():
            bins = len(BIN_NAMES) if name == "loss_by_log_snr" else 1
            if tensor.shape != (2, bins) or tensor.dtype != torch.float32:
                raise RunError(f"the mean loss {name!r} is damaged in {source}")
        self._totals = {
            name: tensor.to(self._device, copy=True) * distributed.is_main()
            for name, tensor in tensors.items()
        }
