"""What DDPM derives from betas, for any pair of times s < t: q(x_t | x_s) and q(x_s | x_t, x_0)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.diffusion.broadcast import Times, per_image


@dataclass(frozen=True)
class Transition:
    """The Gaussians between x_s and x_t, where s is the cleaner of the two.

    Everything follows from the marginals and from `tau = 1 - SNR_t / SNR_s`, the share of the
    variance at t that was added after s. With s and t neighbours on DDPM's grid, the forward
    variance is beta_t and the posterior variance beta-tilde_t; respacing is just another pair.

    Source: Ho et al. 2020, eqs. 2, 6 and 7; Kingma et al. 2021, appendix A, for any s and t.
    """

    alpha_s: Times
    sigma_s: Times
    alpha_t: Times
    sigma_t: Times
    tau: Times

    @property
    def forward_scale(self) -> Times:
        """E[x_t | x_s] = forward_scale x_s."""
        return self.alpha_t / self.alpha_s

    @property
    def forward_variance(self) -> Times:
        """Var q(x_t | x_s): beta_t on DDPM's grid."""
        return self.sigma_t**2 * self.tau

    @property
    def posterior_variance(self) -> Times:
        """Var q(x_s | x_t, x_0): beta-tilde_t on DDPM's grid; 0 at s = 0."""
        return self.sigma_s**2 * self.tau

    @property
    def posterior_weights(self) -> tuple[Times, Times]:
        """(a, b) of the posterior mean a x_0 + b x_t."""
        return self.alpha_s * self.tau, self.forward_scale * (self.sigma_s / self.sigma_t) ** 2

    def posterior_mean(
        self, x_0: Float[Tensor, "B ..."], x_t: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B ..."]:
        """E[x_s | x_t, x_0]."""
        on_x_0, on_x_t = self.posterior_weights
        return per_image(on_x_0, x_0) * x_0 + per_image(on_x_t, x_t) * x_t

    def learned_log_variance(
        self, fraction: Float[Tensor, "B ..."], posterior_floor: Times
    ) -> Float[Tensor, "B ..."]:
        """Interpolates the logs of the posterior (0) and the forward variance (1).

        Args:
            fraction: what the network predicts, for each pixel; in [0, 1] up to its mistakes.
            posterior_floor: stands in for the posterior variance where that is smaller, as at
                s = 0 where it is 0: the posterior variance of the grid's second step.

        Source: Nichol & Dhariwal 2021, eq. 15.
        """
        low = torch.maximum(self.posterior_variance, posterior_floor).log()
        high = self.forward_variance.log()
        return per_image(low, fraction) + fraction * per_image(high - low, fraction)
