"""The terms of the variational bound, in bits per dimension (Ho et al. 2020, eq. 5).

    -log2 p(x_0) / D  <=  L_T + L_{T-1} + ... + L_1 + L_0

L_T asks how far x_1 is from the noise that sampling starts with, L_{t-1} how far the model's step
is from the true posterior, L_0 how well the last step finds each pixel among its 256 levels.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.images import Images
from sfumato.diffusion.broadcast import Times, per_image
from sfumato.diffusion.denoiser import Denoised
from sfumato.diffusion.schedule import NoiseSchedule
from sfumato.diffusion.transition import Transition

PerImage = Float[Tensor, " B"]
FixedVariance = Literal["small", "large"]
BIN_HALF_WIDTH = 1 / 255
"""Half the distance of two of the 256 levels u / 127.5 - 1."""


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
        denoised: what the model says of x_t. Its variance is used when it has one.
        step: between s and t, one for all or one an image.
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
