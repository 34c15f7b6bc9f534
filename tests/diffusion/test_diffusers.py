"""Our samplers against the schedulers of diffusers, step for step, on the same network and noise.

diffusers keeps its tables in float32 and rounds some times. To compare the algorithms and not the
rounding, its tables are replaced by ours in float64 (they are compared first), and where it rounds
times the network does not look at them.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.core.noise import Noise
from sfumato.diffusion.denoiser import AnyClip, ClipToRange, NetworkDenoiser, NoClip
from sfumato.diffusion.grid import KarrasGrid, LeadingGrid, TrailingGrid
from sfumato.diffusion.noise_schedule import TimeGrid
from sfumato.diffusion.parameterization import EpsParameterization
from sfumato.diffusion.samplers.ancestral import AncestralSampler, DDIMSampler
from sfumato.diffusion.samplers.deis import DEISSampler
from sfumato.diffusion.samplers.dpm_solver import DPMSolverMultistepSampler
from sfumato.diffusion.samplers.heun import EulerSampler, HeunSampler
from sfumato.diffusion.samplers.ipndm import IPNDMSampler, PNDMSampler
from sfumato.diffusion.samplers.sampler import Sampler
from sfumato.diffusion.samplers.unipc import UniPCSampler
from sfumato.diffusion.schedules import LinearBetaSchedule

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")

SCHEDULE = LinearBetaSchedule()
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
STEPS = 10
X_1 = Noise([11, 12]).normal(1, 4, 4).double()


def predict(x: Tensor, step: Tensor | float) -> Tensor:
    """A made-up network that looks at the time; its x_0 stays in the range of images."""
    t = (torch.as_tensor(step, dtype=torch.float64) + 1) / 1000
    alpha, sigma = SCHEDULE.alpha_sigma(t)
    return (x - alpha * (0.8 * torch.tanh(1.5 * x) + 0.3 * torch.sin(3 * x + 2 * t))) / sigma


def predict_timeless(x: Tensor, step: Tensor | float) -> Tensor:
    """One that does not look."""
    del step
    return 0.97 * x + 0.02 * torch.sin(3 * x)


class Network(nn.Module):
    def __init__(self, function: Callable[..., Tensor], learned_variance: bool = False) -> None:
        super().__init__()
        self.function, self.learned_variance = function, learned_variance

    def forward(self, x: Tensor, noise_label: Tensor, labels: Tensor | None) -> Tensor:
        eps = self.function(x, noise_label.view(-1, 1, 1, 1))
        return torch.cat([eps, torch.cos(2 * x)], dim=1) if self.learned_variance else eps


def ours(
    sampler: Sampler, function: Callable[..., Tensor] = predict, learned: bool = False
) -> list[Tensor]:
    """Each x on the way."""
    denoiser = NetworkDenoiser(Network(function, learned), SCHEDULE, EpsParameterization(), learned)
    frames: list[Tensor] = []
    sampler(denoiser, X_1, None, Noise([1, 2]), lambda _step, x, _x_0: frames.append(x))
    return frames


UNFINISHED = TrailingGrid(last="first_level")


def sigmas(times: TimeGrid) -> Tensor:
    return (-SCHEDULE.log_snr(times) / 2).exp()


def inject_sigmas(scheduler: Any, times: TimeGrid, repeats: int = 1) -> None:
    """Replace float32 sigmas by ours, if they agree."""
    exact = sigmas(times)
    if repeats == 2:  # Heun lists the inner ones twice
        exact = torch.cat([exact[:1], exact[1:-1].repeat_interleave(2), exact[-1:]])
    torch.testing.assert_close(scheduler.sigmas.double(), exact, rtol=2e-4, atol=1e-7)
    scheduler.sigmas = exact


def theirs(
    scheduler: Any, function: Callable[..., Tensor] = predict, x: Tensor = X_1, **step: Any
) -> list[Tensor]:
    frames = []
    for t in scheduler.timesteps:
        eps = function(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(eps, t, x, **step).prev_sample
        frames.append(x)
    return frames


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(found) == len(expected) == STEPS
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max().item() < tolerance


def with_our_table(scheduler: Any) -> Any:
    log_snr = SCHEDULE.log_snr(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    torch.testing.assert_close(
        scheduler.alphas_cumprod.double(), log_snr.sigmoid(), rtol=1e-4, atol=0
    )
    scheduler.alphas_cumprod = log_snr.sigmoid()
    return scheduler


@pytest.mark.parametrize(
    ("variance", "variance_type"),
    [("small", "fixed_small"), ("large", "fixed_large"), ("learned", "learned_range")],
)
@pytest.mark.parametrize("clip", [NoClip(), ClipToRange()], ids=["unclipped", "clipped"])
def test_ddpm(
    variance: str, variance_type: str, clip: AnyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = variance == "learned"
    sampler = AncestralSampler(steps=STEPS, variance=variance, grid=LeadingGrid(), clip=clip)  # type: ignore[arg-type]
    scheduler = with_our_table(
        diffusers.DDPMScheduler(
            **LINEAR, variance_type=variance_type, clip_sample=isinstance(clip, ClipToRange)
        )
    )
    scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(STEPS)
    noise = Noise([1, 2])
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda shape, **_: noise.normal_like(X_1.expand(shape)),
    )

    def function(x: Tensor, t: Tensor) -> Tensor:
        eps = predict(x, t)
        return torch.cat([eps, torch.cos(2 * x)], dim=1) if learned else eps

    assert_same(ours(sampler, learned=learned), theirs(scheduler, function))


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("clip", [NoClip(), ClipToRange()], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("grid", [LeadingGrid(), TrailingGrid()], ids=["leading", "trailing"])
def test_ddim(
    eta: float,
    clip: AnyClip,
    grid: LeadingGrid | TrailingGrid,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where x_0 is clipped we make eps agree with it: their `use_clipped_model_output`."""
    scheduler = with_our_table(
        diffusers.DDIMScheduler(
            **LINEAR, clip_sample=isinstance(clip, ClipToRange), timestep_spacing=grid.kind
        )
    )
    scheduler.set_timesteps(STEPS)
    noise = Noise([1, 2])
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddim.randn_tensor",
        lambda shape, **_: noise.normal_like(X_1.expand(shape)),
    )
    found = ours(DDIMSampler(steps=STEPS, eta=eta, grid=grid, clip=clip))
    assert_same(found, theirs(scheduler, eta=eta, use_clipped_model_output=True))


def test_euler() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(**LINEAR, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    times = TrailingGrid()(SCHEDULE, STEPS)
    inject_sigmas(scheduler, times)
    scaled = theirs(scheduler, x=X_1 / SCHEDULE.alpha_sigma(times[0])[0])
    expected = [SCHEDULE.alpha_sigma(t)[0] * x for t, x in zip(times[1:], scaled, strict=True)]
    # They return to float32 after each step.
    assert_same(ours(EulerSampler(steps=STEPS, grid=TrailingGrid())), expected, 1e-4)


def test_heun() -> None:
    scheduler = diffusers.HeunDiscreteScheduler(**LINEAR, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    times = TrailingGrid()(SCHEDULE, STEPS)
    inject_sigmas(scheduler, times, repeats=2)
    scaled = theirs(scheduler, x=X_1 / SCHEDULE.alpha_sigma(times[0])[0])
    ends = [*scaled[1::2], scaled[-1]]  # a step is two calls, the last one a single call
    expected = [SCHEDULE.alpha_sigma(t)[0] * x for t, x in zip(times[1:], ends, strict=True)]
    assert_same(ours(HeunSampler(steps=STEPS, grid=TrailingGrid())), expected)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("karras", [False, True])
def test_dpm_solver_multistep(order: int, karras: bool) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **LINEAR, solver_order=order, timestep_spacing="trailing", use_karras_sigmas=karras
    )
    scheduler.set_timesteps(STEPS)
    grid = KarrasGrid(sigma_max=1000) if karras else TrailingGrid()
    inject_sigmas(scheduler, grid(SCHEDULE, STEPS))
    function = predict_timeless if karras else predict
    sampler = DPMSolverMultistepSampler(
        steps=STEPS,
        order=order,
        halved_curvature=True,
        grid=grid,  # type: ignore[arg-type]
    )
    assert_same(ours(sampler, function), theirs(scheduler, function))


def test_stochastic_dpm_solver() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **LINEAR, algorithm_type="sde-dpmsolver++", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(STEPS)
    inject_sigmas(scheduler, TrailingGrid()(SCHEDULE, STEPS))
    noise = Noise([1, 2])
    x, expected = X_1, []
    for t in scheduler.timesteps:
        fresh = noise.normal_like(x)
        x = scheduler.step(predict(x, t), t, x, variance_noise=fresh).prev_sample
        expected.append(x)
    sampler = DPMSolverMultistepSampler(steps=STEPS, stochastic=True, grid=TrailingGrid())
    # They return to float32 after each step.
    assert_same(ours(sampler), expected, 1e-4)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc(order: int, variant: str) -> None:
    """Theirs cannot step to clean data with bh1: it ends at the first noise level instead."""
    scheduler = diffusers.UniPCMultistepScheduler(
        **LINEAR,
        solver_order=order,
        solver_type=variant,
        timestep_spacing="trailing",
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(STEPS)
    inject_sigmas(scheduler, UNFINISHED(SCHEDULE, STEPS))
    found = ours(
        UniPCSampler(steps=STEPS, order=order, variant=variant, grid=UNFINISHED)  # type: ignore[arg-type]
    )
    assert_same(found, theirs(scheduler))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_to_clean_data(order: int) -> None:
    scheduler = diffusers.UniPCMultistepScheduler(
        **LINEAR, solver_order=order, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(STEPS)
    inject_sigmas(scheduler, TrailingGrid()(SCHEDULE, STEPS))
    sampler = UniPCSampler(steps=STEPS, order=order, grid=TrailingGrid())  # type: ignore[arg-type]
    assert_same(ours(sampler), theirs(scheduler))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_in_log_rho(order: int) -> None:
    """Theirs ends at the first noise level instead of clean data."""
    scheduler = diffusers.DEISMultistepScheduler(
        **LINEAR, solver_order=order, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(STEPS)
    inject_sigmas(scheduler, UNFINISHED(SCHEDULE, STEPS))
    found = ours(
        DEISSampler(steps=STEPS, order=order, basis="log_rho", grid=UNFINISHED)  # type: ignore[arg-type]
    )
    assert_same(found, theirs(scheduler))


def test_ipndm() -> None:
    """Theirs takes a v-prediction and any list of sigmas as `trained_betas`."""
    times = TrailingGrid()(SCHEDULE, STEPS)
    alpha, sigma = SCHEDULE.alpha_sigma(times)
    scheduler = diffusers.IPNDMScheduler(trained_betas=sigma.tolist())
    scheduler.set_timesteps(STEPS)
    scheduler.betas, scheduler.alphas = sigma, alpha
    x, expected = X_1, []
    for k, t in enumerate(scheduler.timesteps):
        v = (predict(x, 1000 * times[k] - 1) - sigma[k] * x) / alpha[k]
        x = scheduler.step(v, t, x).prev_sample
        expected.append(x)
    assert_same(ours(IPNDMSampler(steps=STEPS, grid=TrailingGrid())), expected)


def test_pndm() -> None:
    scheduler = with_our_table(diffusers.PNDMScheduler(**LINEAR, set_alpha_to_one=True))
    scheduler.set_timesteps(STEPS)
    frames = theirs(scheduler)
    expected = [frames[3], frames[7], *frames[11:]]  # a Runge-Kutta step is four calls
    assert_same(ours(PNDMSampler(steps=STEPS, grid=LeadingGrid())), expected)
