"""Any schedule x parameterization x loss x times x sampler works, or is refused with why."""

from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfumato.core.config import parse
from sfumato.core.errors import ConfigError
from sfumato.core.images import Batch
from sfumato.core.noise import Noise, TrainingNoise
from sfumato.diffusion.denoiser import AnyClip
from sfumato.diffusion.diffusion_model import DiffusionConfig
from sfumato.diffusion.grid import AnyGrid
from sfumato.diffusion.loss import AnyLoss, AnyWeighting
from sfumato.diffusion.parameterization import AnyParameterization
from sfumato.diffusion.samplers import AnySampler
from sfumato.diffusion.schedules import Schedule
from sfumato.diffusion.time_sampling import AnyTimeSampling

NETWORK = {"kind": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "attention": []}
REFUSED_BY_DESIGN = (
    "no meaning",  # eps at zero terminal SNR, the mean on a continuous schedule or between steps
    "pure noise",
    "infinite at",
    "does not train the variance",
    "learned_variance is false",
    "continuous",
    "no noise level at time",  # the gaps of a discrete schedule
    "between two steps",
    "has order 1 or 2",
    "same noise level",
    "-fold in x_0",  # an eps-prediction, unclipped, where it says nothing
)

OPTIONS: dict[str, dict[str, list[Any]]] = {
    "ancestral": {"variance": ["small", "large", "learned"]},
    "ddim": {"eta": [0.0, 0.5, 1.0]},
    "euler": {"churn": [{"amount": 0.0}, {"amount": 5.0}]},
    "heun": {"churn": [{"amount": 0.0}, {"amount": 5.0}]},
    "dpm_solver_multistep": {"order": [1, 2, 3], "stochastic": [False, True]},
    "dpm_solver_singlestep": {"order": [1, 2, 3]},
    "unipc": {"order": [1, 2, 3], "variant": ["bh1", "bh2"], "corrector": [False, True]},
    "deis": {"order": [1, 2, 3, 4], "basis": ["t", "rho", "log_rho"]},
    "ipndm": {"order": [1, 2, 3, 4]},
}


def kinds(union: Any) -> list[str]:
    return [kind.__dataclass_fields__["kind"].default for kind in get_args(get_args(union)[0])]


def component(union: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.sampled_from(kinds(union)).map(lambda kind: {"kind": kind})


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    schedule = draw(component(Schedule))
    loss = draw(component(AnyLoss))
    if loss["kind"] != "vlb":
        loss |= {"weighting": draw(component(AnyWeighting))}
        loss |= {"distance": draw(st.sampled_from(["l2", "l1", "huber"]))}
    sampler = draw(component(AnySampler))
    sampler |= {"steps": draw(st.sampled_from([5, 9])), "clip": draw(component(AnyClip))}
    if sampler["kind"] != "auto":
        sampler["grid"] = draw(component(AnyGrid))
        sampler["grid"] |= draw(st.sampled_from([{}, {"sigma_max": 80.0}]))
        if sampler["grid"]["kind"] == "trailing":
            sampler["grid"]["last"] = draw(st.sampled_from(["clean", "first_level"]))
    for key, values in OPTIONS.get(sampler["kind"], {}).items():
        sampler[key] = draw(st.sampled_from(values))
    return {
        "kind": "diffusion",
        "network": NETWORK,
        "schedule": schedule,
        "parameterization": draw(component(AnyParameterization)),
        "learned_variance": draw(st.booleans()),
        "loss": loss,
        "time_sampling": draw(component(AnyTimeSampling)),
        "sampler": sampler,
        "guidance": {"kind": "classifier_free", "scale": draw(st.sampled_from([1.0, 2.5]))},
    }


def parsed(mapping: dict[str, Any]) -> tuple[DiffusionConfig | None, str]:
    try:
        return parse(DiffusionConfig, mapping, "test"), ""
    except ConfigError as error:
        return None, str(error)


def of(examples: int) -> settings:
    slow_is_fine = [HealthCheck.too_slow]
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=slow_is_fine
    )


@of(100)
@given(mapping=configs())
def test_every_combination_trains_a_step_and_samples_or_is_refused(mapping: dict[str, Any]) -> None:
    trains_a_step_and_samples_or_is_refused(mapping)


@pytest.mark.slow
@of(600)
@given(mapping=configs())
def test_many_more_combinations(mapping: dict[str, Any]) -> None:
    trains_a_step_and_samples_or_is_refused(mapping)


def trains_a_step_and_samples_or_is_refused(mapping: dict[str, Any]) -> None:
    config, refusal = parsed(mapping)
    if config is None:
        assert any(reason in refusal for reason in REFUSED_BY_DESIGN), refusal
        return
    torch.manual_seed(0)
    model = config.build((1, 4, 4), 2)
    images = torch.linspace(-1, 1, 4 * 16).view(4, 1, 4, 4)
    batch = Batch(images, torch.tensor([0, 1, 0, 1]))
    (phase,) = model.phases()
    loss = phase.loss(batch, TrainingNoise(0, global_batch=4))
    assert loss.shape == (4,)
    assert loss.isfinite().all()
    loss.mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad.sign()
    found = model.eval().sample(batch.labels, Noise(range(4)))
    assert found.isfinite().all()
    assert found.abs().max() <= 1
