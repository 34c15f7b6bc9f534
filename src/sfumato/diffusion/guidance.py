"""Guidance is itself a denoiser: weak + scale (strong - weak)."""

from typing import Literal

import torch

from sfumato.core.config import component
from sfumato.core.images import Images, Labels
from sfumato.diffusion.broadcast import Times
from sfumato.diffusion.denoiser import Denoised, Denoiser

Interval = tuple[float, float]
"""Two noise levels sigma / alpha, between which guidance acts."""


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
        """The guided prediction; the variance is the strong one's."""
        if labels is None or not self._acts_at(t):
            return self.strong(x_t, t, labels)  # type: ignore[no-any-return]
        both_labels = torch.cat([labels, torch.full_like(labels, self.null_label)])
        both_times = t if t.ndim == 0 else t.repeat(2)
        both: Denoised = self.strong(x_t.repeat(2, 1, 1, 1), both_times, both_labels)
        x_0, weak_x_0 = both.x_0.chunk(2)
        eps, weak_eps = both.eps.chunk(2)
        fraction = both.variance_fraction
        return Denoised(
            weak_x_0 + self.scale * (x_0 - weak_x_0),
            weak_eps + self.scale * (eps - weak_eps),
            None if fraction is None else fraction.chunk(2)[0],
        )

    def _acts_at(self, t: Times) -> bool:
        if self.scale == 1:
            return False
        if self.interval is None:
            return True
        low, high = self.interval
        noise_level = (-self.schedule.log_snr(t.flatten()[0]) / 2).exp().item()
        return low <= noise_level <= high


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
