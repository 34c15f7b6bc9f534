"""Guidance by a weaker model and by a classifier."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from diffusion.ideal import BIMODAL, GAUSSIAN, IdealDenoiser, Mixture, at
from sfumato.core.errors import ConfigError
from sfumato.core.images import Batch
from sfumato.core.noise import Noise, TrainingNoise
from sfumato.diffusion.denoiser import ClipToRange, Denoiser, clipped
from sfumato.diffusion.diffusion_model import DiffusionConfig
from sfumato.diffusion.guidance import (
    AutoGuided,
    ClassifierFreeGuidance,
    ClassifierGuided,
    Guided,
    NoisyClassifier,
    without_interval,
)
from sfumato.diffusion.parameterization import EpsParameterization, VParameterization
from sfumato.diffusion.samplers.ancestral import DDIMSampler
from sfumato.diffusion.schedules import (
    CosineSchedule,
    LinearBetaSchedule,
    ZeroTerminalSnrSchedule,
)
from sfumato.networks.unet import UNetConfig

SCHEDULE = CosineSchedule()
MODES = [Mixture((1.0,), (-0.6,), (0.15,)), Mixture((1.0,), (0.5,), (0.2,))]


def test_autoguidance_moves_away_from_the_weak_model() -> None:
    strong = IdealDenoiser(BIMODAL, SCHEDULE, EpsParameterization())
    weak = IdealDenoiser(GAUSSIAN, SCHEDULE, EpsParameterization())
    x, t = Noise([0]).normal(1, 4, 4), at(0.5)
    found = AutoGuided(strong, weak, scale=1.5)(x, t, None)
    expected = 1.5 * strong(x, t, None).x_0 - 0.5 * weak(x, t, None).x_0
    torch.testing.assert_close(found.x_0, expected)
    outside = AutoGuided(strong, weak, scale=1.5, interval=(10.0, 20.0))(x, t, None)
    torch.testing.assert_close(outside.x_0, strong(x, t, None).x_0)


def test_guidance_holds_a_model_and_adds_nothing_to_it() -> None:
    """The state dict stays that of the model, however often it is wrapped."""
    config = DiffusionConfig(
        network=UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=()),
        guidance=ClassifierFreeGuidance(scale=2.0),
    )
    model, weak = (config.build((1, 4, 4), 2) for _ in range(2))
    keys = set(model.state_dict())
    guided = clipped(model.guided, ClipToRange())
    twice = AutoGuided(guided, weak.guided, scale=1.5)
    classifier = NoisyClassifier(config.network, config.schedule, (1, 4, 4), num_classes=2)
    for wrapped in (model.guided, guided, twice, ClassifierGuided(twice, classifier, 1.0)):
        assert isinstance(wrapped, Denoiser)
        assert not isinstance(wrapped, nn.Module)
    assert set(model.state_dict()) == keys
    assert all(key.startswith(("denoiser.network.", "time_sampler.")) for key in keys)


def test_there_is_one_way_to_call_a_guided_denoiser() -> None:
    """No network output and no parameterization, whose prediction would be unguided."""
    inner = IdealDenoiser(BIMODAL, SCHEDULE, EpsParameterization())
    for wrapped in (
        clipped(inner, ClipToRange()),
        Guided(inner, 2.0, null_label=2),
        AutoGuided(inner, inner, 2.0),
        ClassifierGuided(inner, IdealClassifier(), 2.0),
    ):
        public = {name for name in dir(wrapped) if not name.startswith("_")}
        fields = {field.name for field in dataclasses.fields(wrapped)}  # type: ignore[arg-type]
        assert public - fields <= {"schedule", "amplification", "interval"}
        torch.testing.assert_close(wrapped.amplification(at(0.5)), inner.amplification(at(0.5)))


def test_the_costliest_step_is_guided_whatever_the_interval() -> None:
    inner = IdealDenoiser(BIMODAL, SCHEDULE, EpsParameterization())
    weak = IdealDenoiser(GAUSSIAN, SCHEDULE, EpsParameterization())
    x, t = Noise([0]).normal(1, 4, 4), at(0.5)
    never = AutoGuided(AutoGuided(inner, weak, 1.5, (90.0, 91.0)), weak, 1.5, (90.0, 91.0))
    always = AutoGuided(AutoGuided(inner, weak, 1.5), weak, 1.5)
    assert torch.equal(never(x, t, None).x_0, inner(x, t, None).x_0)
    assert torch.equal(without_interval(never)(x, t, None).x_0, always(x, t, None).x_0)


def test_autoguidance_between_different_schedules_is_refused() -> None:
    strong = IdealDenoiser(BIMODAL, SCHEDULE, EpsParameterization())
    weak = IdealDenoiser(BIMODAL, LinearBetaSchedule(), EpsParameterization())
    with pytest.raises(ConfigError, match="same run"):
        AutoGuided(strong, weak, scale=2.0)


class IdealClassifier(nn.Module):
    """log p(mode, x_t) of one pixel: Bayes turns the mixture's denoiser into that of the mode."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (c.item() for c in SCHEDULE.alpha_sigma(t))
        log_joint = [
            mode.log_density(x_t, alpha, sigma).flatten() + torch.tensor(weight).log()
            for mode, weight in zip(MODES, BIMODAL.weights, strict=True)
        ]
        return torch.stack(log_joint, dim=1)


@pytest.mark.parametrize("t", [0.1, 0.4, 0.8])
def test_an_ideal_classifier_turns_the_unconditional_score_into_the_conditional(t: float) -> None:
    """score(x) + grad log p(y | x) = score(x | y), so a scale of 1 is exact."""
    inner = IdealDenoiser(BIMODAL, SCHEDULE, EpsParameterization())
    guided = ClassifierGuided(inner, IdealClassifier(), scale=1.0)
    x = Noise(range(6)).normal(1, 1, 1).double()
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    found = guided(x, at(t), labels)
    for i, label in enumerate(labels):
        exact = IdealDenoiser(MODES[label], SCHEDULE, EpsParameterization())(
            x[i : i + 1], at(t), None
        )
        torch.testing.assert_close(found.x_0[i], exact.x_0[0])
        torch.testing.assert_close(found.eps[i], exact.eps[0])


def test_classifier_guidance_works_inside_a_sampler() -> None:
    inner = IdealDenoiser(BIMODAL, SCHEDULE, EpsParameterization())
    guided = ClassifierGuided(inner, IdealClassifier(), scale=1.0)
    x_1 = Noise(range(40)).normal(1, 1, 1).double()
    labels = torch.arange(40) % 2
    x = DDIMSampler(steps=50)(guided, x_1, labels, Noise(range(40))).flatten()
    assert ((x > 0) == (labels == 1)).double().mean().item() > 0.97


def test_classifier_guidance_of_pure_noise_is_refused() -> None:
    inner = IdealDenoiser(BIMODAL, ZeroTerminalSnrSchedule(), VParameterization())
    guided = ClassifierGuided(inner, IdealClassifier(), scale=1.0)
    with pytest.raises(ConfigError, match="pure noise"):
        guided(torch.zeros(1, 1, 1, 1), at(1.0), torch.tensor([0]))


def test_a_noisy_classifier_learns() -> None:
    """Black and white images: after a few steps it tells them apart at low noise."""
    torch.manual_seed(0)
    network = UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=())
    classifier = NoisyClassifier(network, SCHEDULE, (1, 4, 4), num_classes=2)
    labels = torch.arange(32) % 2
    batch = Batch((labels * 1.6 - 0.8).float().view(32, 1, 1, 1).expand(32, 1, 4, 4), labels)
    optimizer = torch.optim.Adam(classifier.parameters(), 5e-3)
    (phase,) = classifier.phases()
    for step in range(60):
        optimizer.zero_grad()
        phase.loss(batch, TrainingNoise(0, step, global_batch=32)).mean().backward()
        optimizer.step()
    logits = classifier(batch.images, at(0.05))
    assert (logits.argmax(1) == labels).double().mean().item() == 1.0
    with pytest.raises(ConfigError, match="at least 2 classes"):
        NoisyClassifier(network, SCHEDULE, (1, 4, 4), num_classes=0)
