"""A network, a schedule and a parameterization make a denoiser, all that samplers see."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.images import Images, Labels
from sfumato.diffusion.broadcast import Times, one_each, per_image
from sfumato.diffusion.parameterization import Coefficients, Parameterization
from sfumato.diffusion.schedule import NoiseSchedule


class Denoised(NamedTuple):
    """What a denoiser says of x_t. Always x_t = alpha_t x_0 + sigma_t eps."""

    x_0: Float[Tensor, "B C H W"]
    eps: Float[Tensor, "B C H W"]
    variance_fraction: Float[Tensor, "B C H W"] | None = None
    """Where the variance of a reverse step lies between its bounds; None if it is not learned."""


class Output(NamedTuple):
    """The network's own output, before it is turned into a prediction of x_0."""

    prediction: Float[Tensor, "B C H W"]
    variance_fraction: Float[Tensor, "B C H W"] | None


class Denoiser(nn.Module):
    """Predicts x_0 and eps from x_t.

    Args:
        network: forward(x, noise_label, labels) with as many channels out as in, or twice as many
            when the variance is learned; augment_labels follow where it is told of them.
        schedule: the marginals of x_t.
        parameterization: what the network predicts.
        learned_variance: the second half of the channels is the variance, as 2 v - 1.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        parameterization: Parameterization,
        learned_variance: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self.learned_variance = learned_variance

    def forward(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        """x_0 and eps predicted from x_t.

        Args:
            x_t: noisy images.
            t: their time, one for all or one an image; in (0, 1].
            labels: classes; None is the null class.
        """
        c = self.parameterization.coefficients(self.schedule, t)
        return self.interpret(self.network_output(x_t, c, labels), c, x_t)

    def interpret(self, output: Output, c: Coefficients, x_t: Images) -> Denoised:
        """What the network's output says of x_0 and eps."""
        F, fraction = output
        x_0 = per_image(c.c_skip, x_t) * x_t + per_image(c.c_out, x_t) * F
        # eps = (x_t - alpha x_0) / sigma, with the terms gathered in float64 first: in float32
        # the difference would lose all digits at small sigma.
        on_x_t = (1 - c.alpha * c.c_skip) / c.sigma
        on_output = -c.alpha * c.c_out / c.sigma
        eps = per_image(on_x_t, x_t) * x_t + per_image(on_output, x_t) * F
        return Denoised(x_0, eps, fraction)

    def network_output(
        self,
        x_t: Images,
        c: Coefficients,
        labels: Labels | None,
        augment_labels: Float[Tensor, "B A"] | None = None,
    ) -> Output:
        """The network's prediction F, and the variance fraction if it is learned.

        Args:
            augment_labels: how images in training were changed, for a network that is told.
        """
        noise_label = one_each(c.c_noise, x_t)
        told = () if augment_labels is None else (augment_labels,)
        output = self.network(per_image(c.c_in, x_t) * x_t, noise_label, labels, *told)
        if not self.learned_variance:
            return Output(output, None)
        prediction, variance = output.chunk(2, dim=1)
        return Output(prediction, (variance + 1) / 2)
