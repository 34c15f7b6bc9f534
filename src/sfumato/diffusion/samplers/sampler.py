"""What all samplers share: a grid of times, a clip, and the loop over the steps of a walk."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sfumato.core.errors import ConfigError
from sfumato.core.generative_model import OnStep
from sfumato.core.images import Images, Labels
from sfumato.core.noise import RandomStream
from sfumato.diffusion.denoiser import AnyClip, Denoised, Denoiser, NoClip, NoiseLevels, clipped
from sfumato.diffusion.grid import AnyGrid
from sfumato.diffusion.noise_schedule import NoiseSchedule, TimeGrid, Times

WORST_AMPLIFICATION = 1000.0
"""Largest factor by which an error of the network may count in an unclipped x_0. For an
eps-prediction it is sigma / alpha: 157 at the end of DDPM's linear schedule, where samples are
still good, 20,000 at the end of the cosine."""

Step = tuple[Images, Images]
"""x after a step, and the x_0 that was predicted in it."""


@dataclass(frozen=True)
class Route:
    """What a walk depends on besides its start.

    Args:
        denoiser: predicts x_0 and eps; guided and clipped, or not.
        times: falling, or rising for a method that can follow the flow upwards.
        labels: classes; None is unconditional.
        noise: one stream per image.
    """

    denoiser: Denoiser
    times: TimeGrid
    labels: Labels | None
    noise: RandomStream

    @property
    def schedule(self) -> NoiseSchedule:
        """That of the denoiser."""
        return self.denoiser.schedule

    def denoised(self, x_t: Images, t: Times) -> Denoised:
        """The denoiser's prediction for the classes of the walk."""
        return self.denoiser(x_t, t, self.labels)


class Sampler(ABC):
    """Walks a batch of images down a grid of times.

    Image i is the same whatever the size of the batch: every random number comes from its own
    stream in `noise`.
    """

    kind: str
    steps: int
    grid: AnyGrid
    clip: AnyClip

    @property
    def nfe(self) -> int:
        """Evaluations of the denoiser."""
        return self.steps

    @property
    def leaves_grid(self) -> bool:
        """Whether the denoiser is also evaluated at times that are not on the grid."""
        return False

    def for_model(self, model: NoiseLevels) -> "Sampler":
        """The sampler to use for such a model: this one, unless it leaves the choice open."""
        del model
        return self

    def check(self, model: NoiseLevels) -> None:
        """Raise ValueError, with the reason, if this cannot sample from such a model."""
        try:
            times = self.grid(model.schedule, self.steps)
            amplification = model.amplification(times[:-1]).max().item()
            if self.leaves_grid:
                check_between_steps(model)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if isinstance(self.clip, NoClip) and amplification > WORST_AMPLIFICATION:
            raise ValueError(
                f"sampler {self.kind} would start where an error of the network counts "
                f"{amplification:,.0f}-fold in x_0, which ruins images; start later "
                "(sampler.grid.sigma_max = 80) or set sampler.clip.kind = range"
            )

    def __call__(
        self,
        denoiser: Denoiser,
        x_1: Images,
        labels: Labels | None,
        noise: RandomStream,
        on_step: OnStep | None = None,
    ) -> Images:
        """Images in the range of the data from x_1, which is noise at the first time of the grid.

        Args:
            denoiser: predicts x_0 and eps; guided or not.
            x_1: Gaussian noise with the standard deviation `denoiser.schedule.start_std`.
            labels: classes; None is unconditional.
            noise: one stream per image; deterministic samplers draw nothing.
            on_step: called with (step, x_s, predicted x_0) after each step.
        """
        x = x_1
        for step, (x, x_0) in enumerate(self.trajectory(denoiser, x_1, labels, noise)):
            if on_step is not None:
                on_step(step, x, x_0)
        return x

    def trajectory(
        self,
        denoiser: Denoiser,
        x: Images,
        labels: Labels | None,
        noise: RandomStream,
        times: TimeGrid | None = None,
    ) -> Iterator[Step]:
        """The steps of a walk with clipped x_0 and without gradients.

        Gradients are off during each step and on again between them, so that a caller may leave
        the walk at any step.

        Args:
            x: images at the first of `times`.
            times: falling; None is the sampler's grid.
        """
        sampler = self.for_model(denoiser)
        if times is None:
            times = sampler.grid(denoiser.schedule, sampler.steps)
        steps = sampler.walk(x, Route(clipped(denoiser, sampler.clip), times, labels, noise))
        while True:
            with torch.no_grad():
                step = next(steps, None)
            if step is None:
                return
            yield step

    @abstractmethod
    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        """The method itself: a step for each pair of neighbours in `route.times`.

        Gradients flow through it if the caller has them enabled.

        Args:
            x: images at the first of the times.
        """


def check_between_steps(model: NoiseLevels) -> None:
    """Raise ConfigError if the model is only defined on the steps of its discrete schedule."""
    table = model.schedule.table
    if table is not None:
        model.amplification(torch.tensor(1.5 / table.num_steps, dtype=torch.float64))
