"""Training objectives: one number per image at given times, and the weight of each noise level.

time_sampling.py draws the times. Most papers state the weight w of a noise level on
|x_0 - predicted x_0|^2. The error of the network's own output is smaller by c_out, so its weight is
w c_out^2.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field

from sfumato.core.config import NonNegativeFloat, PositiveFloat, component
from sfumato.core.images import Batch, Images
from sfumato.core.noise import RandomStream
from sfumato.diffusion.denoiser import NetworkDenoiser, Output
from sfumato.diffusion.likelihood import FixedVariance, PerImage, step_term
from sfumato.diffusion.noise_schedule import NoiseSchedule, Times, per_image
from sfumato.diffusion.parameterization import Coefficients

Distance = Literal["l2", "l1", "huber"]


class Weighting(ABC):
    """A weight for each noise level."""

    kind: str

    @abstractmethod
    def __call__(self, c: Coefficients) -> Times:
        """The factor of the squared error of the network's output."""


@component
class UniformWeighting(Weighting):
    """Every error of the network's output counts the same: L_simple when it predicts eps."""

    kind: Literal["uniform"] = "uniform"

    def __call__(self, c: Coefficients) -> Times:
        return torch.ones_like(c.alpha)


@component
class SnrWeighting(Weighting):
    """SNR on x_0, which is 1 on eps, whatever the network predicts (Salimans & Ho 2022, eq. 9)."""

    kind: Literal["snr"] = "snr"

    def __call__(self, c: Coefficients) -> Times:
        return _snr(c) * c.c_out**2


@component
class TruncatedSnrWeighting(Weighting):
    """max(SNR, 1) on x_0: noise that hides everything still counts (Salimans & Ho 2022, 4)."""

    kind: Literal["truncated_snr"] = "truncated_snr"

    def __call__(self, c: Coefficients) -> Times:
        return _snr(c).clamp(min=1) * c.c_out**2


@component
class MinSnrWeighting(Weighting):
    """min(SNR, gamma) on x_0: easy, nearly clean images count less (Hang et al. 2023, eq. 6)."""

    kind: Literal["min_snr"] = "min_snr"
    gamma: PositiveFloat = 5.0

    def __call__(self, c: Coefficients) -> Times:
        return _snr(c).clamp(max=self.gamma) * c.c_out**2


@component
class P2Weighting(Weighting):
    """1 / (k + SNR)^gamma on eps: unseen detail counts less (Choi et al. 2022, eq. 8)."""

    kind: Literal["p2"] = "p2"
    k: PositiveFloat = 1.0
    gamma: NonNegativeFloat = 1.0

    def __call__(self, c: Coefficients) -> Times:
        snr = _snr(c)
        return snr * c.c_out**2 / (self.k + snr) ** self.gamma


@component
class EDMWeighting(Weighting):
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on x_0 (Karras et al. 2022, table 1).

    With the edm parameterization of the same `sigma_data` it is `uniform`.
    """

    kind: Literal["edm"] = "edm"
    sigma_data: PositiveFloat = 0.5

    def __call__(self, c: Coefficients) -> Times:
        return (_snr(c) + self.sigma_data**-2) * c.c_out**2


@component
class FlowWeighting(Weighting):
    """1 on the velocity eps - x_0 of rectified flow, whatever the network predicts.

    Source: Lipman et al. 2023, eq. 23; Kingma & Gao 2023, table 1 for the conversion.
    """

    kind: Literal["flow"] = "flow"

    def __call__(self, c: Coefficients) -> Times:
        return ((c.alpha + c.sigma) / c.sigma) ** 2 * c.c_out**2


def _snr(c: Coefficients) -> Times:
    return (c.alpha / c.sigma) ** 2


AnyWeighting = Annotated[
    UniformWeighting
    | SnrWeighting
    | TruncatedSnrWeighting
    | MinSnrWeighting
    | P2Weighting
    | EDMWeighting
    | FlowWeighting,
    Field(discriminator="kind"),
]


class Noised(NamedTuple):
    """Images at their training times, and the network's output for them."""

    x_0: Images
    eps: Images
    x_t: Images
    t: Times
    c: Coefficients
    output: Output


class Loss(ABC):
    """An objective at given times."""

    kind: str

    def __call__(
        self, denoiser: NetworkDenoiser, batch: Batch, t: Times, noise: RandomStream
    ) -> PerImage:
        """The loss of each image at its time t (shape [B]); `noise` supplies eps."""
        x_0, eps = batch.images, noise.normal_like(batch.images)
        c = denoiser.parameterization.coefficients(denoiser.schedule, t)
        x_t = per_image(c.alpha, x_0) * x_0 + per_image(c.sigma, x_0) * eps
        output = denoiser.network_output(x_t, c, batch.labels, batch.augment_labels)
        return self.error(denoiser, Noised(x_0, eps, x_t, t, c, output))

    @abstractmethod
    def error(self, denoiser: NetworkDenoiser, noised: Noised) -> PerImage:
        """The loss of each image, from the network's output."""

    @abstractmethod
    def check(self, schedule: NoiseSchedule, learned_variance: bool) -> None:
        """Raise ValueError, with the reason, if this has no meaning for such a model."""


@component
class SimpleLoss(Loss):
    """L_simple: the error of the network's output, averaged over the pixels.

    Args:
        distance: of output and target: squared, absolute, or Huber's (delta 1).
        weighting: of the noise levels.

    Source: Ho et al. 2020, eq. 14; Karras et al. 2022, eq. 8 for any parameterization.
    """

    kind: Literal["simple"] = "simple"
    distance: Distance = "l2"
    weighting: AnyWeighting = UniformWeighting()

    def error(self, denoiser: NetworkDenoiser, noised: Noised) -> PerImage:
        residual = noised.output.prediction - noised.c.target(noised.x_0, noised.eps)
        match self.distance:
            case "l2":
                error = residual**2
            case "l1":
                error = residual.abs()
            case "huber":
                size = residual.abs()
                error = torch.where(size < 1, residual**2 / 2, size - 0.5)
        error = error.flatten(1).mean(1)
        return error * self.weighting(noised.c).to(error)

    def check(self, schedule: NoiseSchedule, learned_variance: bool) -> None:
        """Refuse a learned variance."""
        if learned_variance:
            raise ValueError(
                "loss simple does not train the variance, but learned_variance is true; "
                "use loss hybrid or vlb, or learned_variance = false"
            )


@component
class VariationalLoss(Loss):
    """L_vlb: one term of the variational bound, times T, in bits per dimension.

    With uniform times its mean is the bound without L_T, which has nothing to learn.

    Args:
        fixed_variance: of the reverse steps when the variance is not learned.

    Source: Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021, section 3.
    """

    kind: Literal["vlb"] = "vlb"
    fixed_variance: FixedVariance = "small"

    def error(self, denoiser: NetworkDenoiser, noised: Noised) -> PerImage:
        schedule, t = denoiser.schedule, noised.t
        assert schedule.table is not None, "check() refuses continuous schedules"
        T = schedule.table.num_steps
        step = schedule.transition((t * T - 1).round() / T, t)
        floor = first_posterior_variance(schedule)
        denoised = denoiser.interpret(noised.output, noised.c, noised.x_t)
        return T * step_term(noised.x_0, denoised, step, floor, self.fixed_variance)

    def check(self, schedule: NoiseSchedule, learned_variance: bool) -> None:
        """Refuse continuous schedules."""
        if schedule.table is None:
            raise ValueError(
                f"loss {self.kind} is a sum over the steps of a discrete schedule; on a continuous "
                "one use loss simple (with a weighting)"
            )


@component
class HybridLoss(Loss):
    """L_simple + vlb_weight L_vlb, where L_vlb trains the variance alone: it sees x_0 detached.

    Source: Nichol & Dhariwal 2021, eq. 16, with their 0.001 for L_vlb in bits per dimension.
    """

    kind: Literal["hybrid"] = "hybrid"
    vlb_weight: PositiveFloat = 0.001
    distance: Distance = "l2"
    weighting: AnyWeighting = UniformWeighting()

    def error(self, denoiser: NetworkDenoiser, noised: Noised) -> PerImage:
        simple = SimpleLoss(distance=self.distance, weighting=self.weighting)
        prediction, fraction = noised.output
        detached = noised._replace(output=Output(prediction.detach(), fraction))
        bound = VariationalLoss().error(denoiser, detached)
        return simple.error(denoiser, noised) + self.vlb_weight * bound

    def check(self, schedule: NoiseSchedule, learned_variance: bool) -> None:
        """Refuse continuous schedules, and models without a learned variance."""
        VariationalLoss().check(schedule, learned_variance)
        if not learned_variance:
            raise ValueError(
                "loss hybrid trains the variance by the bound, but learned_variance is false; "
                "set learned_variance = true, or use loss simple"
            )


def first_posterior_variance(schedule: NoiseSchedule) -> Times:
    """The posterior variance of the second step: the smallest that is not 0."""
    assert schedule.table is not None
    s, t = torch.tensor([1.0, 2.0], dtype=torch.float64) / schedule.table.num_steps
    return schedule.transition(s, t).posterior_variance


AnyLoss = Annotated[SimpleLoss | VariationalLoss | HybridLoss, Field(discriminator="kind")]
