"""Following the flow between images and noise, editing images, and watching a model denoise."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.errors import ConfigError
from sfumato.core.images import Images, Labels
from sfumato.core.noise import RandomStream
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.noise_schedule import TimeGrid, Times
from sfumato.diffusion.samplers.heun import HeunSampler
from sfumato.diffusion.samplers.sampler import Sampler, Step


class Snapshot(NamedTuple):
    """The state of sampling at a time."""

    t: float
    x_t: Images
    x_0: Images
    """The clean image that the denoiser predicts."""


class NoiseEstimate(NamedTuple):
    """Predicted beside true noise, at a time."""

    t: float
    x_t: Images
    eps: Images
    predicted: Images
    eps_std: Float[Tensor, " B"]
    predicted_std: Float[Tensor, " B"]


@torch.no_grad()
def invert(
    denoiser: Denoiser, x_0: Images, labels: Labels | None, noise: RandomStream, times: TimeGrid
) -> Images:
    """The noise from which the probability flow makes the images x_0, by Heun's method.

    Args:
        times: the grid of the sampler (falling, from 1 to 0), followed upwards. The first noise
            level is entered without noise: x = alpha x_0.
        noise: unused by the flow; one stream per image.

    Source: Song et al. 2021 (DDIM), section 4.3. NFE: 2 per step.
    """
    rising = times[:-1].flip(0)
    alpha, _ = denoiser.schedule.alpha_sigma(rising[0])
    return _end(HeunSampler().trajectory(denoiser, alpha * x_0, labels, noise, rising))


@torch.no_grad()
def generate_by_flow(
    denoiser: Denoiser, x_1: Images, labels: Labels | None, noise: RandomStream, times: TimeGrid
) -> Images:
    """The images that the probability flow makes of the noise x_1: what `invert` undoes."""
    alpha, _ = denoiser.schedule.alpha_sigma(times[-2])
    return _end(HeunSampler().trajectory(denoiser, x_1, labels, noise, times[:-1])) / alpha


def _end(steps: Iterator[Step]) -> Images:
    """x after the last step."""
    ((x, _),) = deque(steps, maxlen=1)
    return x


@torch.no_grad()
def sdedit(
    denoiser: Denoiser,
    sampler: Sampler,
    x_0: Images,
    start: float,
    labels: Labels | None,
    noise: RandomStream,
) -> Images:
    """Image to image: noises x_0 to an intermediate time and samples from there.

    Args:
        start: in (0, 1]; later leaves more freedom. Sampling starts at the first time of the
            sampler's grid that is not later.

    Source: Meng et al. 2022, algorithm 1.
    Raises:
        ConfigError: the grid has no time that early.
    """
    sampler = sampler.for_model(denoiser)
    times = sampler.grid(denoiser.schedule, sampler.steps)
    times = times[times <= start + 1e-9]
    if len(times) < 2:
        raise ConfigError(
            f"no time of the sampler's grid lies in (0, {start}]; start later, or with more steps"
        )
    alpha, sigma = denoiser.schedule.alpha_sigma(times[0])
    x_t = alpha * x_0 + sigma * noise.normal_like(x_0)
    return _end(sampler.trajectory(denoiser, x_t, labels, noise, times))


def repaint_levels(steps: int, resamplings: int, jump: int) -> list[int]:
    """The noise levels that RePaint visits, from `steps` (the noise end) to 0 (clean data).

    Down one by one; from each `jump`-th level it goes back up by `jump` and down again, until that
    stretch was walked `resamplings` times.

    Raises:
        ConfigError: fewer than 1 resampling, or a jump longer than the way.

    Source: Lugmayr et al. 2022, appendix (the schedule of figure 9).
    """
    if resamplings < 1 or not 1 <= jump < steps:
        raise ConfigError(
            f"RePaint needs resamplings >= 1 and 1 <= jump < steps, got {resamplings} resamplings "
            f"and jumps of {jump} in {steps} steps; the paper has 10, 10 and 250"
        )
    left = dict.fromkeys(range(1, steps - jump + 1, jump), resamplings - 1)
    levels = [steps]
    while levels[-1] > 0:
        level = levels[-1] - 1
        levels.append(level)
        if left.get(level, 0) > 0:
            left[level] -= 1
            levels.append(level + jump)
    return levels


@torch.no_grad()
def repaint(
    denoiser: Denoiser,
    x_0: Images,
    known: Float[Tensor, "B 1 H W"],
    labels: Labels | None,
    noise: RandomStream,
    times: TimeGrid,
    resamplings: int = 10,
    jump: int = 10,
) -> Images:
    """Inpainting: keeps the known pixels of x_0 and finds the others.

    Each step is ancestral; its known part is replaced by the image noised to that level. Noising
    the whole and walking that stretch again lets the two parts agree.

    Args:
        known: 1 where the pixel is known, 0 where it is to be found.
        times: falling from 1 to 0.
        resamplings: how often each stretch of the way is walked (U in the paper).
        jump: steps of such a stretch (j); longer ones can change more at once.
    Raises:
        ConfigError: as `repaint_levels`.

    Source: Lugmayr et al. 2022, algorithm 1. NFE: about `resamplings` times the steps.
    """
    schedule = denoiser.schedule
    x = schedule.start_std(times[0]) * noise.normal_like(x_0)
    for level, following in pairwise(repaint_levels(len(times) - 1, resamplings, jump)):
        a, b = times[-1 - level], times[-1 - following]
        if following > level:
            step = schedule.transition(a, b)
            fresh = step.forward_variance.sqrt() * noise.normal_like(x)
            x = step.forward_scale * x + fresh
            continue
        step = schedule.transition(b, a)
        denoised = denoiser(x, a, labels)
        if b == 0:
            return known * x_0 + (1 - known) * denoised.x_0
        x_known = step.alpha_s * x_0 + step.sigma_s * noise.normal_like(x)
        x_found = step.posterior_mean(denoised.x_0, x)
        x_found = x_found + step.posterior_variance.sqrt() * noise.normal_like(x)
        x = known * x_known + (1 - known) * x_found
    raise AssertionError("repaint_levels ends at 0")


def reverse_strip(
    denoiser: Denoiser,
    sampler: Sampler,
    x_1: Images,
    labels: Labels | None,
    noise: RandomStream,
    shown: Sequence[float],
) -> list[Snapshot]:
    """x_t and the predicted x_0 on the way from noise to data.

    Args:
        shown: times in [0, 1]; for each, the visited time nearest to it.
    """
    sampler = sampler.for_model(denoiser)
    times = sampler.grid(denoiser.schedule, sampler.steps).tolist()
    steps = sampler.trajectory(denoiser, x_1, labels, noise)
    frames = [Snapshot(t, x_s, x_0) for t, (x_s, x_0) in zip(times[1:], steps, strict=True)]
    # Before the first step only the noise and the first prediction are known.
    frames.insert(0, Snapshot(times[0], x_1, frames[0].x_0))
    return [min(frames, key=lambda frame: abs(frame.t - t)) for t in shown]


@torch.no_grad()
def noise_estimates(
    denoiser: Denoiser,
    x_0: Images,
    labels: Labels | None,
    noise: RandomStream,
    times: Sequence[Times],
) -> list[NoiseEstimate]:
    """Predicted beside true noise at chosen times, with both standard deviations.

    The same eps at every time, so that the rows can be compared. An untrained network shows what
    training has to find; a good one predicts all of it near t = 1 and little near t = 0.
    """
    eps = noise.normal_like(x_0)
    rows = []
    for t in times:
        alpha, sigma = denoiser.schedule.alpha_sigma(t)
        x_t = alpha * x_0 + sigma * eps
        denoised = denoiser(x_t, t, labels)
        predicted = denoised.eps
        stds = eps.flatten(1).std(1), predicted.flatten(1).std(1)
        rows.append(NoiseEstimate(t.item(), x_t, eps, predicted, *stds))
    return rows
