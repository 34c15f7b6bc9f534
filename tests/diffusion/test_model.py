"""The diffusion model as the trainer and the evaluator see it."""

import math

import pytest
import torch

from sfumato.core.config import parse
from sfumato.core.errors import ConfigError
from sfumato.core.generative_model import GenerativeModel
from sfumato.core.images import Batch
from sfumato.core.noise import Noise, TrainingNoise
from sfumato.diffusion.diffusion_model import DiffusionConfig, DiffusionModel
from sfumato.diffusion.guidance import Guided
from sfumato.networks.unet import UNetConfig

NETWORK = {"kind": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "attention": []}
SHAPE = (1, 4, 4)


def build(num_classes: int = 3, **settings: object) -> DiffusionModel:
    config = parse(DiffusionConfig, {"kind": "diffusion", "network": NETWORK, **settings}, "test")
    torch.manual_seed(0)
    model = config.build(SHAPE, num_classes)
    for parameter in model.parameters():  # the last layer starts at zero: stir it
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_is_a_generative_model() -> None:
    model = build()
    assert isinstance(model, GenerativeModel)
    assert [phase.name for phase in model.phases()] == ["denoiser"]
    assert DiffusionConfig(network=UNetConfig()).kind == "diffusion"


def test_each_image_gets_a_time_of_its_own() -> None:
    batch = Batch(torch.zeros(64, *SHAPE), torch.zeros(64, dtype=torch.int64))
    log_snr = build().noisy_losses(batch, TrainingNoise(0, global_batch=64)).log_snr
    assert len(log_snr.unique()) > 50


def test_loss_does_not_depend_on_how_the_batch_is_split() -> None:
    images = Noise(range(8)).normal(*SHAPE)
    batch = Batch(images, torch.arange(8) % 3)
    model = build()
    whole = model.loss(batch, TrainingNoise(0, global_batch=8))
    parts = [
        model.loss(batch.part(which), TrainingNoise(0, global_batch=8, which=which))
        for which in (slice(0, 3), slice(3, 8))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-6)


def test_an_image_does_not_depend_on_the_rest_of_its_batch() -> None:
    model = build(
        sampler={"kind": "ancestral", "steps": 5},
        guidance={"kind": "classifier_free", "scale": 2.0},
    )
    labels = torch.tensor([0, 1, 2, 0])
    whole = model.sample(labels, Noise(range(4)))
    for i in range(4):
        alone = model.sample(labels[i : i + 1], Noise([i]))
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-4, atol=1e-5)


def test_guidance_moves_from_the_unlabelled_prediction_along_the_difference() -> None:
    model = build()
    x, t = Noise(range(2)).normal(*SHAPE), torch.tensor([0.3, 0.8], dtype=torch.float64)
    labels = torch.tensor([2, 1])
    with torch.no_grad():
        strong, weak = model.denoiser(x, t, labels), model.denoiser(x, t, None)
        guided = Guided(model.denoiser, scale=3.0, null_label=3)(x, t, labels)
        unlabelled = Guided(model.denoiser, scale=3.0, null_label=3)(x, t, torch.tensor([3, 3]))
    assert (strong.eps - weak.eps).abs().max() > 1e-3
    torch.testing.assert_close(guided.eps, 3 * strong.eps - 2 * weak.eps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guided.x_0, 3 * strong.x_0 - 2 * weak.x_0, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(unlabelled.eps, weak.eps, rtol=1e-4, atol=1e-4)


def test_guidance_acts_inside_its_interval_only() -> None:
    model = build()
    x, labels = Noise(range(2)).normal(*SHAPE), torch.tensor([2, 1])
    guided = Guided(model.denoiser, scale=3.0, null_label=3, interval=(0.1, 1.0))
    schedule = model.config.schedule
    for noise_level, acts in [(0.05, False), (0.5, True), (5.0, False)]:
        t = schedule.time(torch.tensor(-2 * math.log(noise_level), dtype=torch.float64))
        with torch.no_grad():
            same = torch.equal(guided(x, t, labels).eps, model.denoiser(x, t, labels).eps)
        assert same != acts


def test_nfe_counts_both_passes_of_guidance() -> None:
    sampler = {"kind": "ddim", "steps": 7}
    assert build(sampler=sampler).nfe == 7
    guided = {"kind": "classifier_free", "scale": 2.0}
    assert build(sampler=sampler, guidance=guided).nfe == 14
    assert build(sampler=sampler, guidance=guided, num_classes=0).nfe == 7


def test_label_dropout_gives_the_null_class_its_share() -> None:
    model = build(label_dropout=0.25)
    labels = torch.zeros(4000, dtype=torch.int64)
    dropped = model._drop_labels(labels, TrainingNoise(0, global_batch=4000))
    assert dropped is not None
    assert (dropped == 3).double().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": {"kind": "ddim", "steps": 2000}}, "at most 1000 steps"),
        (
            {"label_dropout": 0.0, "guidance": {"kind": "classifier_free", "scale": 2.0}},
            "label_dropout > 0",
        ),
        ({"label_dropout": 1.5}, "label_dropout' is 1.5; it should be below 1"),
        ({"sampler": {"kind": "ddim", "eta": 2.0}}, "eta' is 2.0; it should be at most 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**settings)  # type: ignore[arg-type]
