"""First-order samplers that redraw all (DDPM) or part (DDIM) of the noise in each step."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from sfumato.core.config import Fraction, PositiveInt, component
from sfumato.core.errors import ConfigError
from sfumato.core.images import Images
from sfumato.diffusion.denoiser import AnyClip, ClipToRange, Denoised
from sfumato.diffusion.grid import AnyGrid, UniformGrid
from sfumato.diffusion.noise_schedule import Transition, per_image
from sfumato.diffusion.samplers.sampler import Route, Sampler, Step

NO_LEARNED_VARIANCE = (
    "sampler.variance is 'learned', but the model's learned_variance is false; "
    "use 'small' or 'large'"
)


@component
class AncestralSampler(Sampler):
    """DDPM: draws x_s from the Gaussian p(x_s | x_t), step by step.

    Its mean is the posterior's with the predicted x_0. Its variance is the posterior's ("small",
    beta-tilde), the forward one ("large", beta), or one between the two that the network predicts
    ("learned"). The last step adds no noise. Any number of steps: a step is a transition between
    any two times.

    Source: Ho et al. 2020, algorithm 2 and section 3.2; Nichol & Dhariwal 2021, section 3.1 and 4.
    NFE: `steps`. Weak order 1.
    """

    kind: Literal["ancestral"] = "ancestral"
    steps: PositiveInt = 1000
    variance: Literal["small", "large", "learned"] = "small"
    grid: AnyGrid = UniformGrid()
    clip: AnyClip = ClipToRange()

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        for t, s in pairwise(route.times):
            denoised = route.denoised(x, t)
            transition = route.schedule.transition(s, t)
            x = transition.posterior_mean(denoised.x_0, x)
            if s > 0:
                x = x + self._std(transition, denoised) * route.noise.normal_like(x)
            yield x, denoised.x_0

    def _std(self, transition: Transition, denoised: Denoised) -> Tensor:
        match self.variance:
            case "small":
                return transition.posterior_variance.sqrt()
            case "large":
                return transition.forward_variance.sqrt()
            case "learned":
                if denoised.variance_fraction is None:
                    raise ConfigError(NO_LEARNED_VARIANCE)
                # s > 0 here, so the posterior variance is not 0 and needs no floor.
                no_floor = torch.zeros((), dtype=torch.float64)
                log_variance = transition.learned_log_variance(denoised.variance_fraction, no_floor)
                return (log_variance / 2).exp()


@component
class DDIMSampler(Sampler):
    """Keeps the predicted noise and redraws the part `eta` of it: 0 is deterministic, 1 is DDPM.

    Source: Song et al. 2021 (DDIM), eqs. 12 and 16. NFE: `steps`. Order: 1 at eta = 0.
    """

    kind: Literal["ddim"] = "ddim"
    steps: PositiveInt = 50
    eta: Fraction = 0.0
    grid: AnyGrid = UniformGrid()
    clip: AnyClip = ClipToRange()

    def walk(self, x: Images, route: Route) -> Iterator[Step]:
        for t, s in pairwise(route.times):
            denoised = route.denoised(x, t)
            transition = route.schedule.transition(s, t)
            redrawn = self.eta**2 * transition.tau  # share of the variance at s that is redrawn
            kept = transition.sigma_s * (1 - redrawn).sqrt()
            x = per_image(transition.alpha_s, x) * denoised.x_0 + kept * denoised.eps
            if self.eta > 0 and s > 0:
                x = x + transition.sigma_s * redrawn.sqrt() * route.noise.normal_like(x)
            yield x, denoised.x_0
