"""What all samplers have in common: a grid of times, a clip, and a walk from noise to data."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from sfumato.core.errors import ConfigError
from sfumato.core.generative_model import OnStep
from sfumato.core.images import Images, Labels
from sfumato.core.noise import RandomStream
from sfumato.diffusion.broadcast import TimeGrid
from sfumato.diffusion.clip import AnyClip, NoClip, clipped
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.grid import AnyGrid
from sfumato.diffusion.parameterization import MeanParameterization, Parameterization
from sfumato.diffusion.schedule import NoiseSchedule

WORST_AMPLIFICATION = 1000.0
"""What an error of the network may at most be multiplied by in an x_0 that nobody clips. An
eps-prediction has sigma / alpha here: 157 at the end of DDPM's linear schedule, where nothing is
amiss yet, 20,000 at the end of the cosine."""


class Sampler(ABC):
    """Walks a batch of images down a grid of times.

    Image i is the same whatever the size of the batch: every random number comes from its own
    stream in `noise`.
    """

    visits_other_times: ClassVar[bool] = False
    """Whether the denoiser is also asked at times that are not on the grid."""

    kind: str
    steps: int
    grid: AnyGrid
    clip: AnyClip

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Evaluations of the denoiser."""

    def for_model(self, schedule: NoiseSchedule, parameterization: Parameterization) -> "Sampler":
        """The sampler to use for such a model: this one, unless it leaves the choice open."""
        del schedule, parameterization
        return self

    def check(
        self, schedule: NoiseSchedule, parameterization: Parameterization, learned_variance: bool
    ) -> None:
        """Raise ValueError, with the reason, if this cannot sample from such a model."""
        try:
            times = self.grid(schedule, self.steps)
            c = parameterization.coefficients(schedule, times[:-1])
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if isinstance(self.clip, NoClip) and c.c_out.abs().max() > WORST_AMPLIFICATION:
            raise ValueError(
                f"sampler {self.kind} would start where an error of the network counts "
                f"{c.c_out.abs().max().item():,.0f}-fold in x_0 (parameterization "
                f"{parameterization.kind}), which ruins images; start later "
                "(sampler.grid.sigma_max = 80) or set sampler.clip.kind = range"
            )
        if self.visits_other_times and isinstance(parameterization, MeanParameterization):
            raise ValueError(
                f"sampler {self.kind} evaluates the network between the times of its grid, where "
                "parameterization mean has no meaning; use ancestral, ddim or a multistep sampler"
            )

    def __call__(
        self,
        denoiser: Denoiser,
        x_1: Images,
        labels: Labels | None,
        noise: RandomStream,
        on_step: OnStep | None = None,
    ) -> Images:
        """Images in the range of the data from x_1, which is noise at t = 1.

        Args:
            denoiser: predicts x_0 and eps; guided or not.
            x_1: Gaussian noise with the standard deviation `denoiser.schedule.start_std`.
            labels: classes; None is unconditional.
            noise: one stream an image; deterministic samplers leave it alone.
            on_step: called with (step, x_s, predicted x_0) after each step.
        """
        times = self.grid(denoiser.schedule, self.steps)
        with torch.no_grad():
            return self.walk(
                clipped(denoiser, self.clip), x_1, times, labels, noise, on_step or _ignore
            )

    @abstractmethod
    def walk(
        self,
        denoiser: Denoiser,
        x: Images,
        times: TimeGrid,
        labels: Labels | None,
        noise: RandomStream,
        on_step: OnStep,
    ) -> Images:
        """x at the last of `times` from x at the first; the times fall."""


def _ignore(step: int, x_s: Images, x_0: Images) -> None:
    """Nobody watches the steps."""


def check_steps(kind: str, steps: int) -> None:
    """Raise ValueError unless there is at least one step."""
    if steps < 1:
        raise ValueError(f"{kind} needs steps >= 1, got {steps}")
