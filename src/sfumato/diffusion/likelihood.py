"""How likely a model finds given images, in bits per dimension.

Two answers: the variational bound, an upper bound for the stochastic sampler, and the
probability-flow ODE, whose change of density can be followed exactly. The terms of the bound
(Ho et al. 2020, eq. 5) are

    -log2 p(x_0) / D  <=  L_T + L_{T-1} + ... + L_1 + L_0

L_T: the distance of x_1 from the noise that sampling starts with. L_{t-1}: the distance of the
model's step from the true posterior. L_0: how well the last step finds each pixel among its 256
levels.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.errors import ConfigError
from sfumato.core.images import Images, Labels
from sfumato.core.noise import RandomStream
from sfumato.diffusion.denoiser import Denoised, Denoiser
from sfumato.diffusion.noise_schedule import NoiseSchedule, TimeGrid, Times, Transition, per_image

PerImage = Float[Tensor, " B"]
FixedVariance = Literal["small", "large"]
BIN_HALF_WIDTH = 1 / 255
"""Half the distance of two of the 256 levels u / 127.5 - 1."""
Trace = Literal["hutchinson", "exact"]
CONTINUOUS_T_MIN = 1e-5
"""Where the ODE starts on a continuous schedule (Song et al. 2021, appendix C)."""
BITS_OF_SCALE = math.log2(127.5)
"""A level of 0..255 is 1 / 127.5 wide in [-1, 1]."""


def mean_bits(nats: Images) -> PerImage:
    """The mean over the dimensions of each image, in bits."""
    return nats.flatten(1).mean(1) / math.log(2)


def prior_term(schedule: NoiseSchedule, x_0: Images, t: Times) -> PerImage:
    """L_T: the KL divergence of x_t given x_0 from the noise that sampling starts with at t."""
    alpha, sigma = schedule.alpha_sigma(t)
    variance = schedule.start_std(t) ** 2
    log_ratio = math.log(variance) - 2 * sigma.log()
    return mean_bits(((alpha * x_0) ** 2 / variance + sigma**2 / variance - 1 + log_ratio) / 2)


def step_term(
    x_0: Images,
    denoised: Denoised,
    step: Transition,
    posterior_floor: Times,
    fixed_variance: FixedVariance,
) -> PerImage:
    """L_{t-1}: the KL divergence of the model's Gaussian step from the posterior; L_0 at s = 0.

    Args:
        x_0: the true images.
        denoised: the model's prediction from x_t. Its variance is used if it is learned.
        step: between s and t, a scalar or one per image.
        posterior_floor: the posterior variance of the grid's second step, for where the true one
            is 0 and its log is needed.
        fixed_variance: the variance of the model's step when it is not learned.
    """
    if denoised.variance_fraction is not None:
        log_variance = step.learned_log_variance(denoised.variance_fraction, posterior_floor)
    elif fixed_variance == "small":
        log_variance = per_image(step.posterior_variance.maximum(posterior_floor).log(), x_0)
    else:
        log_variance = per_image(step.forward_variance.log(), x_0)
    first = step.sigma_s == 0  # the steps to clean data
    if first.all():
        return mean_bits(decoder_nats(x_0, denoised.x_0, log_variance))
    kl = _kl_nats(x_0, denoised.x_0, step, posterior_floor, log_variance)
    if not first.any():
        return mean_bits(kl)
    decoder = decoder_nats(x_0, denoised.x_0, log_variance)
    return torch.where(first.to(x_0.device), mean_bits(decoder), mean_bits(kl))


def decoder_nats(x_0: Images, mean: Images, log_variance: Tensor) -> Images:
    """-log of the probability that a Gaussian gives to the bin of each pixel.

    The bins are centred on the 256 levels; the outermost two reach to infinity.
    Source: Ho et al. 2020, eq. 13.
    """
    inverse_std = (-log_variance / 2).exp()
    centred = x_0 - mean
    upper = (centred + BIN_HALF_WIDTH) * inverse_std
    lower = (centred - BIN_HALF_WIDTH) * inverse_std
    # In the upper tail log(Phi(upper) - Phi(lower)) would lose all digits: mirror it.
    mirrored = lower > 0
    lower, upper = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    inside = log_upper + torch.log(-torch.expm1((log_lower - log_upper).clamp(max=-1e-6)))
    below = torch.special.log_ndtr((centred + BIN_HALF_WIDTH) * inverse_std)
    above = torch.special.log_ndtr((BIN_HALF_WIDTH - centred) * inverse_std)
    log_probability = torch.where(x_0 > 1 - BIN_HALF_WIDTH, above, inside)
    return -torch.where(x_0 < -1 + BIN_HALF_WIDTH, below, log_probability)


def _kl_nats(
    x_0: Images, predicted: Images, step: Transition, posterior_floor: Times, log_variance: Tensor
) -> Images:
    """KL(posterior || model's step). Their means differ by a (x_0 - predicted x_0)."""
    on_x_0, _ = step.posterior_weights
    posterior = step.posterior_variance.maximum(posterior_floor * (step.sigma_s == 0))
    log_ratio = log_variance - per_image(posterior.log(), x_0)
    squares = (per_image(on_x_0, x_0) * (x_0 - predicted)) ** 2 * (-log_variance).exp()
    return (squares + (-log_ratio).exp() - 1 + log_ratio) / 2


@dataclass(frozen=True)
class Bound:
    """The terms of the variational bound of each image, in bits per dimension."""

    prior: Float[Tensor, " B"]
    """L_T"""
    steps: Float[Tensor, "B N"]
    """L_{t-1} of the steps of the grid, from noise to data; the last is L_0."""

    @property
    def total(self) -> Float[Tensor, " B"]:
        """The bound."""
        return self.prior + self.steps.sum(1)


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x_0: Images,
    labels: Labels | None,
    noise: RandomStream,
    times: TimeGrid,
    fixed_variance: FixedVariance = "small",
) -> Bound:
    """An upper bound of -log2 p(x_0) / D under ancestral sampling on `times`.

    Args:
        denoiser: its learned variance is used when it has one.
        x_0: images at the 256 levels of [-1, 1].
        labels: classes; None is unconditional.
        noise: one stream per image; one draw of x_t per step.
        times: falling from 1 to 0. All T steps of a discrete schedule (UniformGrid) give the bound
            of the papers, any other grid that of the sampler on it.
        fixed_variance: of the reverse steps when it is not learned.

    Source: Ho et al. 2020, eq. 5. NFE: one per step.
    """
    schedule = denoiser.schedule
    if len(times) < 3:
        raise ConfigError(f"the bound needs a grid of at least 2 steps, got {len(times) - 1}")
    floor = schedule.transition(times[-2], times[-3]).posterior_variance
    terms = []
    for t, s in pairwise(times):
        step = schedule.transition(s, t)
        x_t = step.alpha_t * x_0 + step.sigma_t * noise.normal_like(x_0)
        denoised = denoiser(x_t, t, labels)
        terms.append(step_term(x_0, denoised, step, floor, fixed_variance))
    return Bound(prior_term(schedule, x_0, times[0]), torch.stack(terms, dim=1))


@dataclass(frozen=True)
class ODELikelihood:
    """-log2 p / D of each image, and how it was computed."""

    bits_per_dim: Float64[Tensor, " B"]
    nfe: int
    tolerance: float
    noise_level: float
    """sigma / alpha at the start: the density is that of the data blurred by it."""


def dequantize(x_0: Images, noise: RandomStream) -> Images:
    """Images at the 256 levels, spread uniformly over the width of a level."""
    return x_0 + ((noise.uniform(*x_0.shape[1:]) - 0.5) / 127.5).to(x_0)


def ode_likelihood(
    denoiser: Denoiser,
    x: Images,
    labels: Labels | None,
    noise: RandomStream,
    trace: Trace = "hutchinson",
    probes: int = 1,
    tolerance: float = 1e-5,
) -> ODELikelihood:
    """The density that the probability flow gives to images, in bits per dimension.

    The flow is followed in the angle phi with tan(phi) = sigma / alpha, for x scaled to
    alpha^2 + sigma^2 = 1: there dx / dphi = cos(phi) eps - sin(phi) x_0 is smooth to both ends,
    and log p falls along the flow by its divergence.

    Args:
        denoiser: predicts x_0 and eps.
        x: dequantized images in [-1, 1] (see `dequantize`).
        labels: classes; None is unconditional.
        noise: one stream per image, for the probes.
        trace: of the Jacobian: Hutchinson's estimate with random signs, or one backward pass per
            dimension.
        probes: of Hutchinson's estimate, averaged.
        tolerance: relative and absolute, of the adaptive Runge-Kutta 4(5).
    Raises:
        ConfigError: the schedule has no noise levels between its last two times.

    Source: Song et al. 2021 (SDE), appendix D.2; the offset for the [-1, 1] scale is log2 127.5.
    """
    from scipy.integrate import solve_ivp  # slow to import, and training imports this file

    schedule = denoiser.schedule
    start, end = _angles(schedule)
    shape = x.shape
    size = x[0].numel()
    signs = [noise.integers(2, *shape[1:]).to(x) * 2 - 1 for _ in range(probes)]
    evaluations = 0

    def slope(phi: float, state: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal evaluations
        evaluations += 1
        position = torch.from_numpy(state.reshape(len(x), size + 1)[:, :-1].copy())
        position = position.view(shape).to(x).requires_grad_()
        with torch.enable_grad():
            velocity = _velocity(denoiser, position, phi, labels)
            divergence = _trace(velocity, position, signs if trace == "hutchinson" else None)
        rows = torch.cat([velocity.detach().flatten(1), divergence[:, None]], dim=1)
        return rows.double().cpu().numpy().ravel()

    first = torch.cat([math.cos(start) * x.flatten(1), x.new_zeros(len(x), 1)], dim=1)
    solved = solve_ivp(
        slope,
        (start, end),
        first.double().cpu().numpy().ravel(),
        rtol=tolerance,
        atol=tolerance,
        t_eval=[end],
    )
    last = torch.from_numpy(solved.y[:, -1].reshape(len(x), size + 1))
    x_1, gained = last[:, :-1], last[:, -1]
    std = _end_std(schedule)
    prior = -(x_1**2).sum(1) / (2 * std**2) - size * math.log(std * math.sqrt(2 * math.pi))
    log_p = prior + gained + size * math.log(math.cos(start))
    bits = -log_p / size / math.log(2) + BITS_OF_SCALE
    return ODELikelihood(bits, evaluations, tolerance, math.tan(start))


def _velocity(denoiser: Denoiser, x: Images, phi: float, labels: Labels | None) -> Images:
    """dx / dphi at x scaled to alpha^2 + sigma^2 = 1."""
    schedule = denoiser.schedule
    log_snr = torch.tensor(-2 * math.log(math.tan(phi)), dtype=torch.float64)
    t = schedule.time(log_snr).clamp(max=1)
    alpha, sigma = schedule.alpha_sigma(t)
    denoised = denoiser((alpha**2 + sigma**2).sqrt() * x, t, labels)
    return math.cos(phi) * denoised.eps - math.sin(phi) * denoised.x_0


def _trace(velocity: Images, x: Images, signs: list[Images] | None) -> Float[Tensor, " B"]:
    """The trace of d velocity / dx of each image; exact when no random signs are given."""

    def product(vector: Images) -> Images:
        (gradient,) = torch.autograd.grad(velocity, x, vector, retain_graph=True)
        return gradient * vector

    if signs is not None:
        total = sum((product(vector) for vector in signs), torch.zeros_like(x))
        return total.flatten(1).sum(1) / len(signs)
    unit_vectors = torch.eye(x[0].numel()).to(x).view(-1, *x.shape[1:])
    total = sum((product(vector.expand_as(x)) for vector in unit_vectors), torch.zeros_like(x))
    return total.flatten(1).sum(1)


def _angles(schedule: NoiseSchedule) -> tuple[float, float]:
    """The first and the last angle that the schedule has."""
    if schedule.table is not None and schedule.table.has_zero_terminal_snr:
        raise ConfigError(
            "the ODE likelihood needs noise levels up to t = 1, but a discrete schedule with zero "
            "terminal SNR has none in its last interval; use the variational bound"
        )
    t_min = CONTINUOUS_T_MIN if schedule.table is None else 1 / schedule.table.num_steps
    ends = schedule.log_snr(torch.tensor([t_min, 1.0], dtype=torch.float64))
    first, last = (-ends / 2).exp().arctan().tolist()
    # Rounding must lead neither below the first noise level nor past the last.
    return first * (1 + 1e-9), last * (1 - 1e-9)


def _end_std(schedule: NoiseSchedule) -> float:
    """The standard deviation of the sampler's first noise, scaled like x."""
    end: Times = torch.ones((), dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(end)
    return schedule.start_std(end) / math.hypot(alpha.item(), sigma.item())
