"""Guidance is itself a denoiser: weak + scale (strong - weak)."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch

from sfumato.core.config import component
from sfumato.core.errors import ConfigError
from sfumato.core.images import Images, Labels
from sfumato.diffusion.broadcast import Times
from sfumato.diffusion.denoiser import Denoised, Denoiser
from sfumato.diffusion.schedule import NoiseSchedule

Interval = tuple[float, float]
"""Two noise levels sigma / alpha, between which guidance acts."""
_everywhere: ContextVar[bool] = ContextVar("guidance acts at every noise level", default=False)


@contextmanager
def guided_everywhere() -> Iterator[None]:
    """Guidance acts whatever its interval says: for those who measure what a guided step costs."""
    token = _everywhere.set(True)
    try:
        yield
    finally:
        _everywhere.reset(token)


def acts_at(schedule: NoiseSchedule, interval: Interval | None, t: Times) -> bool:
    """Whether guidance limited to `interval` acts at time t (the batch's first).

    Times are on the CPU: no device is waited for.
    """
    if interval is None or _everywhere.get():
        return True
    noise_level = (-schedule.log_snr(t.flatten()[0]) / 2).exp().item()
    return interval[0] <= noise_level <= interval[1]


def extrapolated(strong: Denoised, weak: Denoised, scale: float) -> Denoised:
    """weak + scale (strong - weak); the variance is the strong one's."""
    return Denoised(
        weak.x_0 + scale * (strong.x_0 - weak.x_0),
        weak.eps + scale * (strong.eps - weak.eps),
        strong.variance_fraction,
    )


class Guided(Denoiser):
    """Classifier-free guidance: away from what the same network says without the label.

    Both predictions come from one batch of twice the size. Unlabelled images are left alone.

    Source: Ho & Salimans 2022 (with scale = 1 + w); Kynkäänniemi et al. 2024 for the interval.
    """

    def __init__(
        self, strong: Denoiser, scale: float, null_label: int, interval: Interval | None = None
    ) -> None:
        super().__init__(
            strong.network, strong.schedule, strong.parameterization, strong.learned_variance
        )
        self.strong = strong
        self.scale = scale
        self.null_label = null_label
        self.interval = interval

    def forward(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        """The guided prediction."""
        if labels is None or self.scale == 1 or not acts_at(self.schedule, self.interval, t):
            return self.strong(x_t, t, labels)  # type: ignore[no-any-return]
        both_labels = torch.cat([labels, torch.full_like(labels, self.null_label)])
        both_times = t if t.ndim == 0 else t.repeat(2)
        both: Denoised = self.strong(x_t.repeat(2, 1, 1, 1), both_times, both_labels)
        x_0, weak_x_0 = both.x_0.chunk(2)
        eps, weak_eps = both.eps.chunk(2)
        fraction = both.variance_fraction
        strong = Denoised(x_0, eps, None if fraction is None else fraction.chunk(2)[0])
        return extrapolated(strong, Denoised(weak_x_0, weak_eps), self.scale)


class AutoGuided(Denoiser):
    """Autoguidance: away from what a weaker model says, such as an earlier checkpoint of the run.

    It needs no labels, and keeps the variety that classifier-free guidance loses.

    Source: Karras et al. 2024. Two network evaluations a step.
    """

    def __init__(
        self, strong: Denoiser, weak: Denoiser, scale: float, interval: Interval | None = None
    ) -> None:
        super().__init__(
            strong.network, strong.schedule, strong.parameterization, strong.learned_variance
        )
        if strong.schedule != weak.schedule:
            raise ConfigError(
                f"autoguidance compares two models at one noise level, but their schedules differ: "
                f"{strong.schedule} and {weak.schedule}; take the weaker model from the same run"
            )
        self.strong = strong
        self.weak = weak
        self.scale = scale
        self.interval = interval

    def forward(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        """The guided prediction."""
        strong: Denoised = self.strong(x_t, t, labels)
        if self.scale == 1 or not acts_at(self.schedule, self.interval, t):
            return strong
        return extrapolated(strong, self.weak(x_t, t, labels), self.scale)


@component
class ClassifierFreeGuidance:
    """How strongly samples are driven towards their label; scale 1 is off."""

    kind: Literal["classifier_free"] = "classifier_free"
    scale: float = 1.0
    interval: Interval | None = None

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ValueError(f"guidance scale must be >= 0, got {self.scale}; 1 turns it off")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise ValueError(
                "guidance interval needs 0 <= low < high (noise levels sigma / alpha), "
                f"got {self.interval}"
            )

    def guide(self, denoiser: Denoiser, num_classes: int) -> Denoiser:
        """`denoiser` under this guidance; itself when there is nothing to guide."""
        if self.scale == 1 or num_classes == 0:
            return denoiser
        return Guided(denoiser, self.scale, null_label=num_classes, interval=self.interval)
