"""The sampler for those who do not want to choose one."""

from collections.abc import Iterator
from typing import Literal

from sfumato.core.config import PositiveInt, component
from sfumato.core.errors import ConfigError
from sfumato.core.images import Images
from sfumato.diffusion.denoiser import AnyClip, ClipToRange, NoClip, NoiseLevels
from sfumato.diffusion.grid import KarrasGrid, TrailingGrid
from sfumato.diffusion.samplers.ancestral import DDIMSampler
from sfumato.diffusion.samplers.ipndm import IPNDMSampler
from sfumato.diffusion.samplers.sampler import Route, Sampler, Step, check_between_steps

FEW_STEPS = 8
"""Below, extrapolating eps from three values does more harm than good."""


@component
class AutoSampler(Sampler):
    """iPNDM of order 3 in Karras steps; of order 2 in fewer than 8 steps.

    Of all samplers and grids here this one comes closest to the exact flow, or nearly so, at
    almost any number of evaluations, for eps-networks on the cosine schedule and for an EDM
    network: docs/results/samplers has the numbers and the exception. A network of the mean
    parameterization is only defined on the grid of its schedule. It is sampled by DDIM, clipped to
    the range unless another clip is set.

    NFE: `steps`.
    """

    kind: Literal["auto"] = "auto"
    steps: PositiveInt = 20
    clip: AnyClip = NoClip()

    def for_model(self, model: NoiseLevels) -> Sampler:
        """The sampler that is chosen for such a model."""
        try:
            check_between_steps(model)
        except ConfigError:
            clip = ClipToRange() if isinstance(self.clip, NoClip) else self.clip
            return DDIMSampler(steps=self.steps, grid=TrailingGrid(), clip=clip)
        order: Literal[2, 3] = 2 if self.steps < FEW_STEPS else 3
        return IPNDMSampler(steps=self.steps, order=order, grid=KarrasGrid(), clip=self.clip)

    def check(self, model: NoiseLevels) -> None:
        """Refuse what the chosen sampler refuses."""
        self.for_model(model).check(model)

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        return self.for_model(route.denoiser).walk(x, route)
