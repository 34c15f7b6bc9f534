"""Every loss of the ideal denoiser is its known minimum, whatever the parameterization."""

import math

import pytest
import torch
from torch import Tensor, nn

from diffusion.ideal import BIMODAL, GAUSSIAN, IdealDenoiser, Mixture, at
from sfumato.core.images import Batch, Images, Labels
from sfumato.core.noise import TrainingNoise
from sfumato.diffusion.denoiser import Denoised, NetworkDenoiser, Output
from sfumato.diffusion.likelihood import step_term
from sfumato.diffusion.loss import (
    EDMWeighting,
    FlowWeighting,
    HybridLoss,
    Loss,
    MinSnrWeighting,
    P2Weighting,
    SimpleLoss,
    SnrWeighting,
    TruncatedSnrWeighting,
    VariationalLoss,
    Weighting,
    first_posterior_variance,
)
from sfumato.diffusion.noise_schedule import NoiseSchedule
from sfumato.diffusion.parameterization import (
    Coefficients,
    EDMParameterization,
    EpsParameterization,
    ImageParameterization,
    MeanParameterization,
    Parameterization,
    VelocityParameterization,
    VParameterization,
)
from sfumato.diffusion.schedules import (
    ContinuousCosineSchedule,
    CosineSchedule,
    EDMSchedule,
    LinearBetaSchedule,
    RectifiedFlowSchedule,
    ZeroTerminalSnrSchedule,
)

IMAGES = 2048
PARAMETERIZATIONS = [
    EpsParameterization(),
    ImageParameterization(),
    VParameterization(),
    VelocityParameterization(),
    EDMParameterization(),
    MeanParameterization(),
]
SCHEDULES = [
    LinearBetaSchedule(),
    CosineSchedule(),
    ZeroTerminalSnrSchedule(),
    EDMSchedule(),
    RectifiedFlowSchedule(),
    ContinuousCosineSchedule(),
]


def valid(parameterization: Parameterization, schedule: NoiseSchedule) -> bool:
    try:
        parameterization.check(schedule)
    except ValueError:
        return False
    return True


PAIRS = [(p, s) for p in PARAMETERIZATIONS for s in SCHEDULES if valid(p, s)]


def gaussian_batch() -> Batch:
    return Batch(GAUSSIAN.sample((IMAGES, 1, 4, 4), torch.Generator().manual_seed(0)))


def least_error(data: Mixture, schedule: NoiseSchedule, t: Tensor) -> float:
    """E Var(x_0 | x_t), by quadrature over x_t: no prediction of x_0 can be better."""
    alpha, sigma = schedule.alpha_sigma(t)
    reach = (6 * alpha + 10 * sigma).item()
    x = torch.linspace(-reach, reach, 20001, dtype=torch.float64)
    density = data.log_density(x, alpha.item(), sigma.item()).exp()
    explained = torch.trapezoid(density * data.denoise(x, alpha, sigma) ** 2, x).item()
    moments = zip(data.weights, data.means, data.stds, strict=True)
    return sum(w * (m**2 + s**2) for w, m, s in moments) - explained


def posterior_variance(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Var(x_0 | x_t) for Gaussian data: the least squared error of any prediction of x_0."""
    alpha, sigma = schedule.alpha_sigma(t)
    return 0.25 * sigma**2 / (0.25 * alpha**2 + sigma**2)


@pytest.mark.parametrize("data", [GAUSSIAN, BIMODAL], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(("parameterization", "schedule"), PAIRS, ids=str)
def test_simple_loss_of_the_ideal_denoiser_is_the_least_possible(
    parameterization: Parameterization, schedule: NoiseSchedule, data: Mixture
) -> None:
    denoiser = IdealDenoiser(data, schedule, parameterization)
    batch = Batch(data.sample((IMAGES, 1, 4, 4), torch.Generator().manual_seed(0)))
    for t in (at(0.1), at(0.6)):
        noise = TrainingNoise(1, global_batch=IMAGES)
        loss = SimpleLoss()(denoiser, batch, t.expand(IMAGES), noise).mean().item()
        c_out = parameterization.coefficients(schedule, t).c_out.item()
        expected = least_error(data, schedule, t) / c_out**2
        assert loss == pytest.approx(expected, rel=0.03)  # standard error 0.8 %


def test_least_error_of_gaussian_data_is_the_closed_form() -> None:
    for t in (0.1, 0.6):
        found = least_error(GAUSSIAN, CosineSchedule(), at(t))
        assert found == pytest.approx(posterior_variance(CosineSchedule(), at(t)).item(), rel=1e-9)


@pytest.mark.parametrize(("parameterization", "schedule"), PAIRS, ids=str)
def test_denoiser_returns_what_went_into_the_target(
    parameterization: Parameterization, schedule: NoiseSchedule
) -> None:
    """A network that says exactly F* is read as exactly x_0 and eps."""
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 3, 1, 4, 4, generator=generator, dtype=torch.float64)
    t = at(0.002, 0.5, 0.95)
    c = parameterization.coefficients(schedule, t)
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in (c.alpha, c.sigma))
    denoiser = NetworkDenoiser(nn.Identity(), schedule, parameterization)
    denoised = denoiser.interpret(Output(c.target(x_0, eps), None), c, alpha * x_0 + sigma * eps)
    torch.testing.assert_close(denoised.x_0, x_0, rtol=0, atol=1e-9)
    torch.testing.assert_close(denoised.eps, eps, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("weighting", "on_x_0"),
    [
        (SnrWeighting(), lambda snr: snr),
        (TruncatedSnrWeighting(), lambda snr: max(snr, 1)),
        (MinSnrWeighting(gamma=5.0), lambda snr: min(snr, 5)),
        (P2Weighting(), lambda snr: snr / (1 + snr)),
        (EDMWeighting(), lambda snr: (1 / snr + 0.25) / (0.25 / snr)),
        (FlowWeighting(), lambda snr: (1 + math.sqrt(snr)) ** 2),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
@pytest.mark.parametrize("parameterization", [EpsParameterization(), VParameterization()])
@pytest.mark.parametrize("t", [0.05, 0.5, 0.9])
def test_weightings_are_those_of_the_papers_on_x_0(
    weighting: Weighting, on_x_0: object, parameterization: Parameterization, t: float
) -> None:
    schedule = CosineSchedule()
    c = parameterization.coefficients(schedule, at(t))
    found = (weighting(c) / c.c_out**2).item()
    snr = schedule.log_snr(at(t)).exp().item()
    assert callable(on_x_0)
    assert found == pytest.approx(on_x_0(snr), rel=1e-9)


def test_edm_weighting_is_uniform_on_edm_and_flow_weighting_on_velocity() -> None:
    """Karras et al. 2022, table 1: lambda(sigma) = 1 / c_out^2; likewise for rectified flow."""
    edm = EDMParameterization().coefficients(EDMSchedule(), at(0.001, 0.1, 1.0))
    flow = VelocityParameterization().coefficients(RectifiedFlowSchedule(), at(0.1, 0.5, 1.0))
    one = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(EDMWeighting()(edm), one)
    torch.testing.assert_close(FlowWeighting()(flow), one)


def test_edm_coefficients_are_those_of_the_paper() -> None:
    """Karras et al. 2022, table 1, at sigma = 2 and sigma_data = 0.5."""
    c = EDMParameterization().coefficients(EDMSchedule(), at(2 / 80))
    root = math.sqrt(4.25)
    expected = [0.25 / 4.25, 2 * 0.5 / root, 1 / root, math.log(2) / 4]
    assert [v.item() for v in c[:4]] == pytest.approx(expected, rel=1e-12)


def test_velocity_of_rectified_flow_is_noise_minus_image() -> None:
    c = VelocityParameterization().coefficients(RectifiedFlowSchedule(), at(0.3, 0.8))
    x_0, eps = torch.full((2, 1, 1, 1), 0.25), torch.full((2, 1, 1, 1), -1.5)
    torch.testing.assert_close(c.target(x_0, eps), eps - x_0)


class OffBy(NetworkDenoiser):
    """A network whose output is wrong by a known amount everywhere."""

    def __init__(self, amount: float) -> None:
        super().__init__(nn.Identity(), CosineSchedule(), EpsParameterization())
        self.amount = amount

    def network_output(
        self,
        x_t: Images,
        c: Coefficients,
        labels: Labels | None,
        augment_labels: Tensor | None = None,
    ) -> Output:
        x_0 = torch.zeros_like(x_t)  # the batch is zero, so x_t = sigma eps
        sigma = c.sigma.view(-1, 1, 1, 1)
        return Output(c.target(x_0, x_t / sigma) + self.amount, None)


@pytest.mark.parametrize(
    ("distance", "amount", "expected"),
    [("l2", 2.0, 4.0), ("l1", 2.0, 2.0), ("huber", 2.0, 1.5), ("huber", 0.5, 0.125)],
)
def test_distances(distance: str, amount: float, expected: float) -> None:
    batch = Batch(torch.zeros(2, 1, 2, 2, dtype=torch.float64))
    loss = SimpleLoss(distance=distance)  # type: ignore[arg-type]
    found = loss(OffBy(amount), batch, at(0.2, 0.9), TrainingNoise(0, global_batch=2))
    assert found.tolist() == pytest.approx([expected] * 2)


DISCRETE_PAIRS = [(p, s) for p, s in PAIRS if s.table is not None]


def simple_loss(
    distance: str, parameterization: Parameterization, schedule: NoiseSchedule
) -> float:
    loss = SimpleLoss(distance=distance)  # type: ignore[arg-type]
    denoiser = IdealDenoiser(GAUSSIAN, schedule, parameterization)
    times, noise = at(0.3).expand(IMAGES), TrainingNoise(1, global_batch=IMAGES)
    return loss(denoiser, gaussian_batch(), times, noise).mean().item()


@pytest.mark.parametrize(("parameterization", "schedule"), PAIRS, ids=str)
def test_absolute_and_hubers_loss_of_gaussian_data_are_those_of_a_gaussian_residual(
    parameterization: Parameterization, schedule: NoiseSchedule
) -> None:
    """The residual of the ideal output is normal; its median is 0 too, so L1 has this minimum."""
    c_out = parameterization.coefficients(schedule, at(0.3)).c_out.abs()
    std = (posterior_variance(schedule, at(0.3)).sqrt() / c_out).item()
    expected = std * math.sqrt(2 / math.pi)
    assert simple_loss("l1", parameterization, schedule) == pytest.approx(expected, rel=0.02)
    z = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    size = (std * z).abs()
    huber = torch.where(size < 1, size**2 / 2, size - 0.5) * (-(z**2) / 2).exp()
    expected = torch.trapezoid(huber, z).item() / math.sqrt(2 * math.pi)
    assert simple_loss("huber", parameterization, schedule) == pytest.approx(expected, rel=0.04)


class KnowsTheVariance(IdealDenoiser):
    """Says also where the best variance of a step of DDPM's grid lies between its bounds."""

    def network_output(
        self,
        x_t: Images,
        c: Coefficients,
        labels: Labels | None,
        augment_labels: Tensor | None = None,
    ) -> Output:
        output = super().network_output(x_t, c, labels)
        t = at(0.3)
        step = self.schedule.transition(t - 0.001, t)
        best = step.posterior_variance + step.posterior_weights[0] ** 2 * least(self, t)
        low, high = step.posterior_variance.log(), step.forward_variance.log()
        fraction = (best.log() - low) / (high - low)
        return Output(output.prediction, fraction.expand_as(x_t))


def least(denoiser: IdealDenoiser, t: Tensor) -> Tensor:
    return torch.tensor(least_error(denoiser.data, denoiser.schedule, t), dtype=torch.float64)


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
@pytest.mark.parametrize("data", [GAUSSIAN, BIMODAL], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(("parameterization", "schedule"), DISCRETE_PAIRS, ids=str)
def test_the_bound_and_the_hybrid_loss_have_their_known_minima(
    parameterization: Parameterization, schedule: NoiseSchedule, data: Mixture, variance: str
) -> None:
    """E KL = (log(v / beta-tilde) + (beta-tilde + a^2 E Var(x_0 | x_t)) / v - 1) / 2.

    The least over v (of one v for all x_t) is (log(v / beta-tilde)) / 2 where v is that sum.
    """
    t = at(0.3)
    kind = KnowsTheVariance if variance == "learned" else IdealDenoiser
    denoiser = kind(data, schedule, parameterization)
    step = schedule.transition(t - 0.001, t)
    small, error = step.posterior_variance, least(denoiser, t)
    best = small + step.posterior_weights[0] ** 2 * error
    v = {"small": small, "large": step.forward_variance, "learned": best}[variance]
    kl = ((v / small).log() + best / v - 1) / 2
    bound = 1000 * kl.item() / math.log(2)

    batch = Batch(data.sample((IMAGES, 1, 4, 4), torch.Generator().manual_seed(0)))
    times = t.expand(IMAGES)

    def found(loss: Loss) -> float:
        noise = TrainingNoise(1, global_batch=IMAGES)
        return loss(denoiser, batch, times, noise).mean().item()

    fixed = "large" if variance == "large" else "small"
    assert found(VariationalLoss(fixed_variance=fixed)) == pytest.approx(bound, rel=0.03)  # type: ignore[arg-type]
    if variance == "learned":
        c_out = parameterization.coefficients(schedule, t).c_out.item()
        expected = error.item() / c_out**2 + 0.001 * bound
        assert found(HybridLoss()) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("kind", ["small", "large", "learned"])
def test_step_term_is_torchs_kl_divergence(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x_0, guess, x_t = torch.randn(3, 5, 1, 2, 2, generator=generator, dtype=torch.float64)
    step = CosineSchedule().transition(at(0.3), at(0.34))
    fraction = torch.rand(5, 1, 2, 2, generator=generator, dtype=torch.float64)
    variance = {
        "small": step.posterior_variance,
        "large": step.forward_variance,
        "learned": step.learned_log_variance(fraction, at(0.0)).exp(),
    }[kind]
    truth = torch.distributions.Normal(
        step.posterior_mean(x_0, x_t), step.posterior_variance.sqrt()
    )
    model = torch.distributions.Normal(step.posterior_mean(guess, x_t), variance.sqrt())
    expected = torch.distributions.kl_divergence(truth, model).flatten(1).mean(1) / math.log(2)
    denoised = Denoised(guess, x_t, fraction if kind == "learned" else None)
    fixed = "large" if kind == "large" else "small"
    found = step_term(x_0, denoised, step, first_posterior_variance(CosineSchedule()), fixed)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)


def test_terms_of_a_mixed_batch_equal_those_of_its_parts() -> None:
    """L_0 and L_{t-1} in one batch: each image gets the term of its own time."""
    denoiser = IdealDenoiser(BIMODAL, CosineSchedule(), EpsParameterization())
    x_0 = BIMODAL.sample((2, 1, 3, 3), torch.Generator().manual_seed(0)).clamp(-1, 1)
    noise = TrainingNoise(0, global_batch=2)
    both = VariationalLoss()(denoiser, Batch(x_0), at(0.001, 0.4), noise)
    for i, t in enumerate((0.001, 0.4)):
        noise = TrainingNoise(0, global_batch=2, which=slice(i, i + 1))
        times = at(t).view(1)
        alone = VariationalLoss()(denoiser, Batch(x_0[i : i + 1]), times, noise)
        torch.testing.assert_close(alone[0], both[i])
    assert both.isfinite().all()


class Linear(nn.Module):
    """Two scales: one for the prediction, one for the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = (nn.Parameter(torch.tensor(v)) for v in (0.3, 0.1))

    def forward(self, x: Tensor, noise_label: Tensor, labels: Tensor | None) -> Tensor:
        return torch.cat([self.mean * x, self.variance * x], dim=1)


def test_hybrid_loss_trains_the_prediction_by_the_simple_loss_alone() -> None:
    network = Linear()
    denoiser = NetworkDenoiser(
        network, CosineSchedule(), EpsParameterization(), learned_variance=True
    )
    batch, times = Batch(torch.full((4, 1, 2, 2), 0.2)), at(0.001, 0.2, 0.5, 1.0)

    def gradients(loss: SimpleLoss | HybridLoss | VariationalLoss) -> list[float]:
        network.zero_grad()
        loss(denoiser, batch, times, TrainingNoise(0, global_batch=4)).mean().backward()
        return [0.0 if p.grad is None else p.grad.item() for p in network.parameters()]

    simple, bound, hybrid = map(gradients, (SimpleLoss(), VariationalLoss(), HybridLoss()))
    assert hybrid[0] == pytest.approx(simple[0], rel=1e-5)
    assert hybrid[1] == pytest.approx(0.001 * bound[1], rel=1e-4)
    assert simple[1] == 0
    assert bound[0] != 0
