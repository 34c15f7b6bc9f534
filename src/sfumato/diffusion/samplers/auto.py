"""The sampler for those who do not want to choose one."""

from typing import Literal

from sfumato.core.config import component
from sfumato.core.images import Images, Labels
from sfumato.core.model import OnStep
from sfumato.core.noise import RandomStream
from sfumato.diffusion.broadcast import TimeGrid
from sfumato.diffusion.clip import AnyClip, NoClip
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.grid import SIGMA_MAX, LogSnrGrid, TrailingGrid
from sfumato.diffusion.parameterization import MeanParameterization, Parameterization
from sfumato.diffusion.samplers.ancestral import DDIMSampler
from sfumato.diffusion.samplers.deis import DEISSampler
from sfumato.diffusion.samplers.ipndm import IPNDMSampler
from sfumato.diffusion.samplers.sampler import Sampler, check_steps
from sfumato.diffusion.schedule import NoiseSchedule

FEW_STEPS = 8
"""Below, high order and wide log-SNR steps do more harm than good."""


@component
class AutoSampler(Sampler):
    """DEIS of order 3 in log rho, in equal steps of log-SNR; iPNDM of order 2 where that fails.

    Of all samplers and grids here these came closest to the exact flow of a DDPM trained on the
    digits: with 20 evaluations a root mean square error of 0.0045 (DDIM 0.04), and with fewer
    than 8 steps iPNDM's 0.08 (DDIM: 0.11). It starts at sigma / alpha = 80 where the schedule goes
    beyond. Log-SNR steps need an end that is not pure noise, and leave the grid of a discrete
    schedule, which the mean parameterization cannot.

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
        on_grid_only = isinstance(parameterization, MeanParameterization)
        if on_grid_only:
            return DDIMSampler(steps=self.steps, grid=TrailingGrid())
        if self.steps < FEW_STEPS or schedule.reaches_pure_noise:
            grid = TrailingGrid(sigma_max=SIGMA_MAX)
            return IPNDMSampler(steps=self.steps, order=2, grid=grid, clip=self.clip)
        return DEISSampler(steps=self.steps, basis="log_rho", grid=LogSnrGrid(), clip=self.clip)

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
