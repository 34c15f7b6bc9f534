"""Data whose ideal denoiser is known in closed form: independent pixels, and correlated pairs."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.images import Images, Labels
from sfumato.diffusion.denoiser import NetworkDenoiser, Output
from sfumato.diffusion.noise_schedule import NoiseSchedule, per_image
from sfumato.diffusion.parameterization import Coefficients, Parameterization

Pixels = Float[Tensor, "B ..."]


@dataclass(frozen=True)
class Mixture:
    """Pixels from a mixture of Gaussians; one component makes them Gaussian."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def _columns(self, x: Pixels) -> tuple[Pixels, Pixels, Pixels]:
        shape = (-1, *[1] * x.ndim)
        columns = (
            torch.tensor(v, dtype=torch.float64).to(x).view(shape)
            for v in (self.weights, self.means, self.stds)
        )
        weights, means, stds = columns
        return weights, means, stds

    def denoise(self, x: Pixels, alpha: Pixels, sigma: Pixels) -> Pixels:
        """E[x_0 | alpha x_0 + sigma eps = x]."""
        weights, means, stds = self._columns(x)
        variance = (alpha * stds) ** 2 + sigma**2
        residual = x - alpha * means
        share = (weights.log() - residual**2 / variance / 2 - variance.log() / 2).softmax(0)
        return (share * (means + alpha * stds**2 / variance * residual)).sum(0)

    def log_density(self, x: Pixels, alpha: float = 1.0, sigma: float = 0.0) -> Pixels:
        """log p_t(x) of each pixel, in nats."""
        weights, means, stds = self._columns(x)
        variance = (alpha * stds) ** 2 + sigma**2
        log_terms = weights.log() - (x - alpha * means) ** 2 / variance / 2
        return (log_terms - (2 * math.pi * variance).log() / 2).logsumexp(0)

    def transported(
        self, x: Pixels, start: tuple[float, float], end: tuple[float, float]
    ) -> Pixels:
        """Where the probability flow takes x between two (alpha, sigma): quantiles are kept."""
        wanted = self._cdf(x, *start)
        low, high = torch.full_like(x, -1000.0), torch.full_like(x, 1000.0)
        for _ in range(80):
            middle = (low + high) / 2
            below = self._cdf(middle, *end) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def _cdf(self, x: Pixels, alpha: float, sigma: float) -> Pixels:
        weights, means, stds = self._columns(x)
        z = (x - alpha * means) / ((alpha * stds) ** 2 + sigma**2).sqrt()
        return (weights * torch.special.ndtr(z)).sum(0)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Pixels:
        """float64 pixels."""
        which = torch.multinomial(
            torch.tensor(self.weights), math.prod(shape), replacement=True, generator=generator
        )
        means, stds = (torch.tensor(v, dtype=torch.float64) for v in (self.means, self.stds))
        noise = torch.randn(math.prod(shape), generator=generator, dtype=torch.float64)
        return (means[which] + stds[which] * noise).view(shape)


GAUSSIAN = Mixture((1.0,), (0.3,), (0.5,))
SMOOTH = Mixture((0.4, 0.6), (-0.5, 0.5), (0.6, 0.5))
BIMODAL = Mixture((0.3, 0.7), (-0.6, 0.5), (0.15, 0.2))


class IdealDenoiser(NetworkDenoiser):
    """The minimizer of every loss on `data`, expressed as the output of a parameterization."""

    def __init__(
        self, data: Mixture, schedule: NoiseSchedule, parameterization: Parameterization
    ) -> None:
        super().__init__(nn.Identity(), schedule, parameterization)
        self.data = data

    def network_output(
        self,
        x_t: Images,
        c: Coefficients,
        labels: Labels | None,
        augment_labels: Tensor | None = None,
    ) -> Output:
        alpha, sigma = per_image(c.alpha, x_t), per_image(c.sigma, x_t)
        x_0 = self.data.denoise(x_t, alpha, sigma)
        return Output(c.target(x_0, (x_t - alpha * x_0) / sigma), None)


@dataclass(frozen=True)
class PairMixture:
    """Neighbouring pixels, in pairs along the last axis, from a mixture of Gaussians of the plane.

    Args:
        covariances: of each component: variance, covariance, variance.
    """

    weights: tuple[float, ...]
    means: tuple[tuple[float, float], ...]
    covariances: tuple[tuple[float, float, float], ...]

    def moments(self) -> tuple[Float[Tensor, "2"], Float[Tensor, "2 2"]]:
        """Mean and covariance of a pair."""
        weights, means, covariances = self._components()
        mean = weights @ means
        spread = means - mean
        within = (weights[:, None, None] * covariances).sum(0)
        return mean, within + torch.einsum("k,ki,kj->ij", weights, spread, spread)

    def denoise(self, x: Pixels, alpha: Tensor, sigma: Tensor) -> Pixels:
        """E[x_0 | alpha x_0 + sigma eps = x]."""
        log_shares, guesses = [], []
        for weight, mean, covariance in zip(*self._components(), strict=True):
            noisy = alpha**2 * covariance + sigma**2 * torch.eye(2)
            residual = x.double() - alpha * mean
            solved = residual @ noisy.inverse()
            guesses.append(mean + alpha * solved @ covariance)
            log_shares.append(
                weight.log() - (residual * solved).sum(-1, keepdim=True) / 2 - noisy.logdet() / 2
            )
        shares = torch.stack(log_shares).softmax(0)
        return (shares * torch.stack(guesses)).sum(0).to(x)

    def _components(self) -> tuple[Tensor, Tensor, Tensor]:
        rows = [((a, b), (b, c)) for a, b, c in self.covariances]
        weights, means, covariances = (
            torch.tensor(v, dtype=torch.float64) for v in (self.weights, self.means, rows)
        )
        return weights, means, covariances


class IdealPairs(NetworkDenoiser):
    """The minimizer of every loss on pairs, expressed as the output of a parameterization."""

    def __init__(
        self, data: PairMixture, schedule: NoiseSchedule, parameterization: Parameterization
    ) -> None:
        super().__init__(nn.Identity(), schedule, parameterization)
        self.data = data

    def network_output(
        self,
        x_t: Images,
        c: Coefficients,
        labels: Labels | None,
        augment_labels: Tensor | None = None,
    ) -> Output:
        x_0 = self.data.denoise(x_t, c.alpha, c.sigma)
        return Output(c.target(x_0, (x_t - c.alpha * x_0) / c.sigma), None)


def levels(schedule: NoiseSchedule, parameterization: Parameterization) -> NetworkDenoiser:
    """What a sampler checks: a denoiser whose network is never called."""
    return NetworkDenoiser(nn.Identity(), schedule, parameterization)


def at(*times: float) -> Tensor:
    """Times as float64: a scalar from one, a vector from several."""
    return torch.tensor(times[0] if len(times) == 1 else times, dtype=torch.float64)
