"""Training objectives: one number an image, at times that are given.

The distribution of the times is a matter of its own (time_sampling.py), and so is the weight of
each noise level (weighting.py).
"""

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sfumato.core.config import component
from sfumato.core.images import Batch, Images
from sfumato.core.noise import RandomStream
from sfumato.diffusion.bound import FixedVariance, PerImage, step_term
from sfumato.diffusion.broadcast import Times, per_image
from sfumato.diffusion.denoiser import Denoiser, Output
from sfumato.diffusion.parameterization import Coefficients
from sfumato.diffusion.schedule import NoiseSchedule
from sfumato.diffusion.weighting import AnyWeighting, UniformWeighting

Distance = Literal["l2", "l1", "huber"]


class Loss(ABC):
    """An objective at given times."""

    kind: str

    @abstractmethod
    def __call__(
        self, denoiser: Denoiser, batch: Batch, t: Times, noise: RandomStream
    ) -> Float[Tensor, " B"]:
        """The loss of each image at its time t (shape [B]); `noise` supplies eps."""

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

    def __call__(
        self, denoiser: Denoiser, batch: Batch, t: Times, noise: RandomStream
    ) -> Float[Tensor, " B"]:
        x_0, eps = batch.images, noise.normal_like(batch.images)
        c = denoiser.parameterization.coefficients(denoiser.schedule, t)
        x_t = per_image(c.alpha, x_0) * x_0 + per_image(c.sigma, x_0) * eps
        output = denoiser.network_output(x_t, c, batch.labels, batch.augment_labels)
        return self.error(output, c, x_0, eps)

    def error(self, output: Output, c: Coefficients, x_0: Images, eps: Images) -> PerImage:
        """The loss of an output that is already there."""
        residual = output.prediction - c.target(x_0, eps)
        match self.distance:
            case "l2":
                error = residual**2
            case "l1":
                error = residual.abs()
            case "huber":
                size = residual.abs()
                error = torch.where(size < 1, residual**2 / 2, size - 0.5)
        error = error.flatten(1).mean(1)
        return error * self.weighting(c).to(error)

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

    def __call__(
        self, denoiser: Denoiser, batch: Batch, t: Times, noise: RandomStream
    ) -> Float[Tensor, " B"]:
        x_0, eps = batch.images, noise.normal_like(batch.images)
        c = denoiser.parameterization.coefficients(denoiser.schedule, t)
        x_t = per_image(c.alpha, x_0) * x_0 + per_image(c.sigma, x_0) * eps
        output = denoiser.network_output(x_t, c, batch.labels, batch.augment_labels)
        return self.error(denoiser, output, c, x_t, x_0, t)

    def error(
        self,
        denoiser: Denoiser,
        output: Output,
        c: Coefficients,
        x_t: Images,
        x_0: Images,
        t: Times,
    ) -> PerImage:
        """The loss of an output that is already there."""
        table = denoiser.schedule.table
        assert table is not None, "check() refuses continuous schedules"
        T = table.num_steps
        step = denoiser.schedule.transition((t * T - 1).round() / T, t)
        floor = first_posterior_variance(denoiser.schedule)
        denoised = denoiser.interpret(output, c, x_t)
        return T * step_term(x_0, denoised, step, floor, self.fixed_variance)

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
    vlb_weight: float = 0.001
    distance: Distance = "l2"
    weighting: AnyWeighting = UniformWeighting()

    def __post_init__(self) -> None:
        if self.vlb_weight <= 0:
            raise ValueError(
                f"hybrid needs vlb_weight > 0, got {self.vlb_weight}; the paper has 0.001"
            )

    def __call__(
        self, denoiser: Denoiser, batch: Batch, t: Times, noise: RandomStream
    ) -> Float[Tensor, " B"]:
        x_0, eps = batch.images, noise.normal_like(batch.images)
        c = denoiser.parameterization.coefficients(denoiser.schedule, t)
        x_t = per_image(c.alpha, x_0) * x_0 + per_image(c.sigma, x_0) * eps
        output = denoiser.network_output(x_t, c, batch.labels, batch.augment_labels)
        simple = SimpleLoss(distance=self.distance, weighting=self.weighting)
        detached = Output(output.prediction.detach(), output.variance_fraction)
        bound = VariationalLoss().error(denoiser, detached, c, x_t, x_0, t)
        return simple.error(output, c, x_0, eps) + self.vlb_weight * bound

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
