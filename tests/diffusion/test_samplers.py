"""Contract of every sampler in the union: NFE, frames, batch split, start from pure noise."""

import dataclasses
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from diffusion.ideal import BIMODAL, GAUSSIAN, IdealDenoiser, levels
from sfumato.core.images import Images, Labels
from sfumato.core.noise import Noise
from sfumato.diffusion.denoiser import (
    ClipToRange,
    Denoised,
    DynamicThreshold,
    NetworkDenoiser,
    NoClip,
)
from sfumato.diffusion.grid import KarrasGrid, UniformGrid
from sfumato.diffusion.noise_schedule import NoiseSchedule, Times
from sfumato.diffusion.parameterization import (
    EDMParameterization,
    EpsParameterization,
    MeanParameterization,
    VParameterization,
)
from sfumato.diffusion.samplers import AnySampler
from sfumato.diffusion.samplers.ancestral import AncestralSampler, DDIMSampler
from sfumato.diffusion.samplers.auto import AutoSampler
from sfumato.diffusion.samplers.dpm_solver import (
    DPMSolverMultistepSampler,
    DPMSolverSinglestepSampler,
)
from sfumato.diffusion.samplers.heun import Churn, EulerSampler, HeunSampler
from sfumato.diffusion.samplers.sampler import Route, Sampler
from sfumato.diffusion.schedules import (
    CosineSchedule,
    EDMSchedule,
    LinearBetaSchedule,
    RectifiedFlowSchedule,
    ZeroTerminalSnrSchedule,
)

KINDS = get_args(get_args(AnySampler)[0])
SAMPLERS: list[Sampler] = [
    *(kind(steps=8) for kind in KINDS),
    AncestralSampler(steps=8, variance="large"),
    DPMSolverMultistepSampler(steps=8, stochastic=True),
    DPMSolverSinglestepSampler(steps=8, order=3),
    HeunSampler(steps=8, churn=Churn(amount=4.0)),
]


class Counting(IdealDenoiser):
    calls = 0

    def forward(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        self.calls += 1
        return super().forward(x_t, t, labels)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_nfe_is_counted_and_every_step_is_shown(sampler: Sampler) -> None:
    denoiser = Counting(BIMODAL, CosineSchedule(), VParameterization())
    frames: list[tuple[int, Tensor, Tensor]] = []
    x_1 = Noise([3]).normal(1, 4, 4)
    x = sampler(denoiser, x_1, None, Noise([3]), lambda *frame: frames.append(frame))
    assert denoiser.calls == sampler.nfe
    assert [frame[0] for frame in frames] == list(range(8))
    assert torch.equal(frames[-1][1], x)
    assert x.dtype == torch.float32


class Formula:
    """A denoiser without a network or a parameterization: the posterior mean itself."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def amplification(self, t: Times) -> Times:
        return torch.zeros_like(t)

    def __call__(self, x_t: Images, t: Times, labels: Labels | None) -> Denoised:
        alpha, sigma = self.schedule.alpha_sigma(t)
        x_0 = GAUSSIAN.denoise(x_t, alpha, sigma)
        return Denoised(x_0, (x_t - alpha * x_0) / sigma)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_a_formula_is_a_denoiser_and_samples_as_its_network_would(sampler: Sampler) -> None:
    schedule = CosineSchedule()
    sampler.check(Formula(schedule))
    x_1 = Noise(range(2)).normal(1, 4, 4).double()
    network = IdealDenoiser(GAUSSIAN, schedule, VParameterization())
    expected = sampler(network, x_1, None, Noise(range(2)))
    found = sampler(Formula(schedule), x_1, None, Noise(range(2)))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_a_walk_that_is_abandoned_leaves_gradients_on(sampler: Sampler) -> None:
    """A generator with no_grad inside would leave them off for its caller."""
    denoiser = IdealDenoiser(BIMODAL, CosineSchedule(), VParameterization())
    x_1 = Noise([0]).normal(1, 4, 4).requires_grad_()
    steps = sampler.trajectory(denoiser, x_1, None, Noise([0]))
    for _, (x, x_0) in zip(range(2), steps, strict=False):
        assert not x.requires_grad
        assert not x_0.requires_grad
        assert torch.is_grad_enabled()
    steps.close()
    assert torch.is_grad_enabled()
    with torch.no_grad():
        next(sampler.trajectory(denoiser, x_1, None, Noise([0])))
        assert not torch.is_grad_enabled()


def test_gradients_flow_through_a_walk() -> None:
    """The flow of Gaussian data is x_0 = mean + std z, so that d x_0 / d x_1 is the std, 0.5."""
    schedule = CosineSchedule()
    sampler = HeunSampler(steps=80)
    times = sampler.grid(schedule, sampler.steps)
    x_1 = Noise([0]).normal(1, 2, 2).double().requires_grad_()
    denoiser = IdealDenoiser(GAUSSIAN, schedule, VParameterization())
    *_, (x, _) = sampler.walk(x_1, Route(denoiser, times, None, Noise([0])))
    (gradient,) = torch.autograd.grad(x.sum(), x_1)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.5), rtol=5e-3, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_an_image_does_not_depend_on_its_batch(sampler: Sampler) -> None:
    denoiser = IdealDenoiser(BIMODAL, CosineSchedule(), VParameterization())
    x_1 = Noise(range(5)).normal(1, 4, 4)
    whole = sampler(denoiser, x_1, None, Noise(range(5)))
    for i in (0, 3):
        alone = sampler(denoiser, x_1[i : i + 1], None, Noise([i]))
        assert torch.equal(alone[0], whole[i])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize(
    "schedule", [ZeroTerminalSnrSchedule(), RectifiedFlowSchedule()], ids=["zero_snr", "flow"]
)
def test_pure_noise_is_a_start_or_is_refused(
    sampler: Sampler, schedule: ZeroTerminalSnrSchedule
) -> None:
    """From noise that says nothing of the data, all but the warm-up methods find the two modes."""
    parameterization = VParameterization()
    if not isinstance(sampler, AutoSampler):
        sampler = dataclasses.replace(sampler, grid=UniformGrid())  # type: ignore[type-var]
    if sampler.kind in ("pndm", "dpm_solver_singlestep"):
        with pytest.raises(ValueError, match="pure noise"):
            sampler.check(levels(schedule, parameterization))
        return
    sampler.check(levels(schedule, parameterization))
    denoiser = IdealDenoiser(BIMODAL, schedule, parameterization)
    x = sampler(denoiser, Noise(range(8)).normal(1, 8, 8), None, Noise(range(8)))
    assert x.isfinite().all()
    assert (x > 0).double().mean().item() == pytest.approx(0.7, abs=0.1)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_deterministic_and_stochastic_samplers_find_the_distribution(sampler: Sampler) -> None:
    """Mean and second moment of the mixture, with enough steps."""
    stochastic = isinstance(sampler, AncestralSampler) or getattr(sampler, "stochastic", False)
    fine = dataclasses.replace(sampler, steps=300 if stochastic else 60)  # type: ignore[type-var]
    denoiser = IdealDenoiser(BIMODAL, LinearBetaSchedule(), VParameterization())
    noise = Noise(range(40))
    x = fine(denoiser, noise.normal(1, 16, 16).double(), None, noise)
    mean = 0.3 * -0.6 + 0.7 * 0.5
    square = 0.3 * (0.15**2 + 0.6**2) + 0.7 * (0.2**2 + 0.5**2)
    assert x.mean().item() == pytest.approx(mean, abs=0.025)
    assert x.square().mean().item() == pytest.approx(square, abs=0.02)


def test_churn_on_edms_own_schedule_keeps_the_distribution() -> None:
    """Karras et al. 2022, algorithm 2, with a churn that is at its limit in the middle."""
    churn = Churn(amount=20.0, sigma_min=0.05, sigma_max=50.0)
    sampler = HeunSampler(steps=40, grid=KarrasGrid(), churn=churn)
    denoiser = IdealDenoiser(BIMODAL, EDMSchedule(), EDMParameterization())
    noise = Noise(range(40))
    x = sampler(denoiser, 80 * noise.normal(1, 16, 16).double(), None, noise)
    assert x.mean().item() == pytest.approx(0.17, abs=0.025)
    assert x.square().mean().item() == pytest.approx(0.3178, abs=0.02)
    plain = HeunSampler(steps=40, grid=KarrasGrid())
    noise = Noise(range(40))
    unchurned = plain(denoiser, 80 * noise.normal(1, 16, 16).double(), None, noise)
    assert (x - unchurned).abs().mean().item() > 0.05


def test_dynamic_threshold_is_the_quantile_of_each_image() -> None:
    """Saharia et al. 2022, section 2.3; images inside the range are left alone."""
    x_0 = torch.stack([torch.linspace(-4, 4, 101), torch.linspace(-0.5, 0.5, 101)])
    found = DynamicThreshold(quantile=0.9)(x_0.view(2, 1, 1, 101)).view(2, 101)
    limit = x_0[0].abs().quantile(0.9)
    torch.testing.assert_close(found[0], x_0[0].clamp(-limit, limit) / limit)
    torch.testing.assert_close(found[1], x_0[1])


def test_euler_is_ddim_in_the_time_of_rectified_flow() -> None:
    """x_s = x_t + (s - t) (eps - x_0)."""
    denoiser = IdealDenoiser(BIMODAL, RectifiedFlowSchedule(), VParameterization())
    x = x_1 = Noise([0]).normal(1, 4, 4).double()
    for k in range(10):
        t = torch.tensor(1 - k / 10, dtype=torch.float64)
        denoised = denoiser(x, t, None)
        x = x - 0.1 * (denoised.eps - denoised.x_0)
    found = EulerSampler(steps=10, grid=UniformGrid())(denoiser, x_1, None, Noise([0]))
    torch.testing.assert_close(found, x)


@pytest.mark.parametrize("steps", [6, 20])
def test_auto_is_never_far_from_the_best_choice(steps: int) -> None:
    """On this data, too, it beats DDIM by the margin that its docstring gives."""
    denoiser = IdealDenoiser(BIMODAL, LinearBetaSchedule(), VParameterization())
    x_1 = Noise(range(4)).normal(1, 8, 8).double()
    exact = HeunSampler(steps=400)(denoiser, x_1, None, Noise(range(4)))

    def error(sampler: Sampler) -> float:
        x = sampler(denoiser, x_1, None, Noise(range(4)))
        return (x - exact).square().mean().sqrt().item()

    ddim = error(DDIMSampler(steps=steps, clip=NoClip()))
    assert error(AutoSampler(steps=steps)) < ddim * (0.2 if steps == 20 else 0.9)


@pytest.mark.parametrize(
    ("clip", "used"),
    [(NoClip(), ClipToRange()), (DynamicThreshold(), DynamicThreshold())],
    ids=lambda clip: clip.kind,
)
def test_auto_clips_as_it_is_told_where_it_chooses_ddim(
    clip: NoClip | DynamicThreshold, used: ClipToRange | DynamicThreshold
) -> None:
    chosen = AutoSampler(clip=clip).for_model(levels(CosineSchedule(), MeanParameterization()))
    assert isinstance(chosen, DDIMSampler)
    assert chosen.clip == used


class SlightlyWrong(nn.Module):
    """The ideal eps for x_0 ~ N(0.3, 0.5^2) on the cosine schedule, off by 1 %."""

    def forward(
        self, x: torch.Tensor, noise_label: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        t = (noise_label.double() + 1) / 1000
        alpha, sigma = (c[:, None, None, None] for c in CosineSchedule().alpha_sigma(t))
        return sigma * (x - alpha * 0.3) / (0.25 * alpha**2 + sigma**2) * 1.01


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_an_eps_network_is_forgiven_its_errors_where_the_schedule_is_nearly_pure_noise(
    sampler: Sampler,
) -> None:
    """At t = 1 sigma / alpha is 20,000: an error of 1 % in eps would be one of 200 in x_0."""
    sampler = dataclasses.replace(sampler, steps=20)  # type: ignore[type-var]
    denoiser = NetworkDenoiser(SlightlyWrong(), CosineSchedule(), EpsParameterization())
    sampler.check(denoiser)
    noise = Noise(range(100))
    x = sampler(denoiser, noise.normal(1, 8, 8).double(), None, noise)
    assert x.mean().item() == pytest.approx(0.3, abs=0.1)
    assert x.std().item() == pytest.approx(0.5, rel=0.25)  # DDIM clips, and 8 % of the data with it


def test_a_start_that_would_ruin_images_is_refused_with_both_remedies() -> None:
    sampler = HeunSampler(grid=UniformGrid())
    model = levels(CosineSchedule(), EpsParameterization())
    with pytest.raises(ValueError, match=r"20,291-fold .*sigma_max = 80\) or .*kind = range"):
        sampler.check(model)
    for remedy in (HeunSampler(grid=UniformGrid(sigma_max=80)), HeunSampler(clip=ClipToRange())):
        remedy.check(model)
    sampler.check(levels(CosineSchedule(), VParameterization()))
    sampler.check(levels(LinearBetaSchedule(), EpsParameterization()))
