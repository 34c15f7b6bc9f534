"""The sampler for those who do not want to choose one."""

from typing import Literal

from sfumato.core.config import component
from sfumato.core.generative_model import OnStep
from sfumato.core.images import Images, Labels
from sfumato.core.noise import RandomStream
from sfumato.diffusion.broadcast import TimeGrid
from sfumato.diffusion.clip import AnyClip, ClipToRange, NoClip
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.grid import KarrasGrid, TrailingGrid
from sfumato.diffusion.parameterization import MeanParameterization, Parameterization
from sfumato.diffusion.samplers.ancestral import DDIMSampler
from sfumato.diffusion.samplers.ipndm import IPNDMSampler
from sfumato.diffusion.samplers.sampler import Sampler, check_steps
from sfumato.diffusion.schedule import NoiseSchedule

FEW_STEPS = 8
"""Below, extrapolating eps from three values does more harm than good."""


@component
class AutoSampler(Sampler):
    """iPNDM of order 3 in Karras steps; of order 2 in fewer than 8 steps.

    Of all samplers and grids here this one comes closest to the exact flow, or nearly so, at
    almost any number of evaluations, for eps-networks on the cosine schedule and for an EDM network
    alike: docs/results/samplers has the numbers and the exception. A network of the mean
    parameterization, which knows the grid of its schedule alone, is sampled by DDIM, clipped to
    the range unless another clip is asked for.

    NFE: `steps`.
    """

    kind: Literal["auto"] = "auto"
    steps: int = 20
    clip: AnyClip = NoClip()

    def __post_init__(self) -> None:
        check_steps(self.kind, self.steps)

    @property
    def nfe(self) -> int:
        return self.steps

    def for_model(self, schedule: NoiseSchedule, parameterization: Parameterization) -> Sampler:
        """The sampler that is chosen for such a model."""
        if isinstance(parameterization, MeanParameterization):
            clip = ClipToRange() if isinstance(self.clip, NoClip) else self.clip
            return DDIMSampler(steps=self.steps, grid=TrailingGrid(), clip=clip)
        order: Literal[2, 3] = 2 if self.steps < FEW_STEPS else 3
        return IPNDMSampler(steps=self.steps, order=order, grid=KarrasGrid(), clip=self.clip)

    def check(
        self, schedule: NoiseSchedule, parameterization: Parameterization, learned_variance: bool
    ) -> None:
        """Refuse what the chosen sampler refuses."""
        chosen = self.for_model(schedule, parameterization)
        chosen.check(schedule, parameterization, learned_variance)

    def __call__(
        self,
        denoiser: Denoiser,
        x_1: Images,
        labels: Labels | None,
        noise: RandomStream,
        on_step: OnStep | None = None,
    ) -> Images:
        chosen = self.for_model(denoiser.schedule, denoiser.parameterization)
        return chosen(denoiser, x_1, labels, noise, on_step)

    def walk(
        self,
        denoiser: Denoiser,
        x: Images,
        times: TimeGrid,
        labels: Labels | None,
        noise: RandomStream,
        on_step: OnStep,
    ) -> Images:
        chosen = self.for_model(denoiser.schedule, denoiser.parameterization)
        return chosen.walk(denoiser, x, times, labels, noise, on_step)
