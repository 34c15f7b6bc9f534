"""Guidance by another run: a weaker one, or a noisy classifier trained by the trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.core.config import parse
from sfumato.core.errors import ConfigError, RunError
from sfumato.core.images import UInt8Images, from_uint8
from sfumato.core.noise import Noise
from sfumato.data.catalogue import load
from sfumato.diffusion.guidance import NoisyClassifier
from sfumato.experiment.experiment import Experiment
from sfumato.experiment.load import LoadedRun, load_run
from sfumato.experiment.training_run import train
from sfumato.explore.samples import Guide
from sfumato.speed.sampling import sample_images
from support.experiments import DIFFUSION, experiment

SCHEDULE = {"kind": "linear_beta", "num_steps": 100}
MODEL: dict[str, Any] = DIFFUSION["model"] | {"schedule": SCHEDULE}
CLASSIFIER: dict[str, Any] = DIFFUSION | {
    "name": "tiny-classifier",
    "model": {
        "kind": "noisy_classifier",
        "schedule": SCHEDULE,
        "network": {"kind": "unet", "channels": 16, "multipliers": [1], "blocks": 1}
        | {"attention": [], "patch": 2},
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion model, a shorter one, and a classifier."""
    folder = tmp_path_factory.mktemp("runs")
    train(experiment(DIFFUSION | {"model": MODEL}, sample_images=0), folder / "strong")
    changes = {"sample_images": 0, "budget_images": 32}
    train(experiment(DIFFUSION | {"model": MODEL}, **changes), folder / "weak")
    changes = {"sample_images": 0, "budget_images": 8_000, "learning_rate": 2e-3}
    changes |= {"batch_size": 32, "checkpoint_images": 8_000, "averages": []}
    train(experiment(CLASSIFIER, **changes), folder / "classifier")
    return folder


def draw(loaded: LoadedRun, labels: torch.Tensor) -> UInt8Images:
    return sample_images(loaded.model, labels, range(len(labels)), plan=loaded.plan)


LABELS = torch.arange(10)


@pytest.mark.parametrize("guide", [{"autoguide": "weak"}, {"classifier": "classifier"}])
def test_guided_samples_are_computed_by_the_plan_of_the_run(
    runs: Path, guide: dict[str, str]
) -> None:
    ((kind, name),) = guide.items()
    images, autocast = [], []
    for precision in ("float32", "bfloat16"):
        strong = load_run(runs / "strong", [f"training.precision={precision}"])
        guided = Guide(**{kind: runs / name}, scale=2.0).apply(strong)
        assert guided.plan == strong.plan
        assert guided.plan.precision == precision
        strong.model.denoiser.network.register_forward_hook(
            lambda *_: autocast.append(torch.is_autocast_enabled("cpu"))
        )
        images.append(draw(guided, LABELS).double())
    error = (images[0] - images[1]).square().mean().sqrt()
    assert error < 4  # of 255 levels
    half = len(autocast) // 2
    assert half > 0
    assert autocast == [False] * half + [True] * half


def test_the_trained_classifier_knows_clean_digits_and_not_noise(runs: Path) -> None:
    loaded = load_run(runs / "classifier")
    classifier = loaded.model
    assert isinstance(classifier, NoisyClassifier)
    held_out = load(loaded.experiment.data).held_out
    images, labels = next(held_out.batches(200, seed=0))
    assert labels is not None
    x_0 = from_uint8(images)

    def accuracy(step: int) -> float:
        t = torch.tensor(step / 100, dtype=torch.float64)
        alpha, sigma = classifier.schedule.alpha_sigma(t)
        x_t = alpha * x_0 + sigma * Noise(range(200)).normal_like(x_0)
        return (classifier(x_t, t).argmax(1) == labels).double().mean().item()

    assert accuracy(1) > 0.6
    assert accuracy(100) < accuracy(1)


def test_a_classifier_guides_towards_its_labels(runs: Path) -> None:
    strong = load_run(runs / "strong")
    plain = draw(strong, LABELS)
    off = Guide(classifier=runs / "classifier", scale=0.0).apply(strong)
    assert torch.equal(draw(off, LABELS), plain)
    guided = Guide(classifier=runs / "classifier", scale=5.0).apply(strong)
    assert guided.model.nfe == 2 * strong.model.nfe
    classifier = load_run(runs / "classifier").model
    t = torch.tensor(0.01, dtype=torch.float64)
    logits = [classifier(from_uint8(x), t) for x in (plain, draw(guided, LABELS))]
    log_p = [one.log_softmax(1)[torch.arange(10), LABELS].mean().item() for one in logits]
    assert log_p[1] > log_p[0] + 0.5


def test_autoguidance_by_a_run_a_file_and_a_checkpoint(runs: Path) -> None:
    strong = load_run(runs / "strong")
    plain = draw(strong, LABELS)
    off = Guide(autoguide=runs / "weak", scale=1.0).apply(strong)
    assert torch.equal(draw(off, LABELS), plain)
    on = Guide(autoguide=runs / "weak", scale=2.0).apply(strong)
    assert not torch.equal(draw(on, LABELS), plain)
    assert on.model.nfe == 2 * strong.model.nfe
    same = Guide(autoguide=runs / "weak" / "final.safetensors", scale=2.0).apply(strong)
    assert torch.equal(draw(same, LABELS), draw(on, LABELS))
    checkpoint = runs / "weak" / "checkpoints" / "000000000032.safetensors"
    last = Guide(autoguide=checkpoint, scale=2.0).apply(strong)
    assert torch.equal(draw(last, LABELS), draw(on, LABELS))
    # A model says of itself what it says: nothing is changed, whatever the scale.
    itself = Guide(autoguide=runs / "strong", scale=3.0).apply(strong)
    difference = draw(itself, LABELS).int() - plain.int()
    assert difference.abs().max() <= 1


def test_a_guided_model_holds_each_network_once(runs: Path) -> None:
    """As many tensors as its two networks have, none of them under two names."""
    strong = load_run(runs / "strong")
    own = len(strong.model.state_dict())
    for guide in (Guide(autoguide=runs / "weak"), Guide(classifier=runs / "classifier")):
        guided = guide.apply(strong).model
        state = guided.state_dict()
        assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
        assert sum(key.startswith("model.") for key in state) == own
        assert sum(key.startswith("guide.") for key in state) == len(state) - own > 0


def test_nonsense_is_refused_with_the_reason(runs: Path) -> None:
    strong = load_run(runs / "strong")
    with pytest.raises(RunError, match=r"model\.guidance\.scale=2"):
        Guide(scale=2.0)
    with pytest.raises(RunError, match="needs a run of a noisy_classifier"):
        Guide(classifier=runs / "weak").apply(strong)
    with pytest.raises(RunError, match=r"--autoguide needs a diffusion model, .* 'noisy_"):
        Guide(autoguide=runs / "classifier").apply(strong)
    with pytest.raises(RunError, match="guidance needs a diffusion model"):
        Guide(autoguide=runs / "weak").apply(load_run(runs / "classifier"))
    other = load_run(runs / "strong", ["model.schedule.kind=cosine"])
    with pytest.raises(RunError, match=r"train it with that model\.schedule"):
        Guide(classifier=runs / "classifier").apply(other)
    scaled = load_run(runs / "strong", ["model.guidance.scale=2.0"])
    with pytest.raises(RunError, match="takes the place of classifier-free guidance"):
        Guide(autoguide=runs / "weak").apply(scaled)
    with pytest.raises(ConfigError, match="draws no images"):
        draw(load_run(runs / "classifier"), LABELS)
    with pytest.raises(ConfigError, match=r"set training\.sample_images = 0"):
        parse(Experiment, CLASSIFIER, "test")
