"""Compiled networks in sampling: when, for which batches, and with the same images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from networks.tiny import TINY, moved
from sfumato.data.catalogue import load
from sfumato.diffusion.diffusion_model import DiffusionConfig
from sfumato.diffusion.guidance import AutoGuided, ClassifierFreeGuidance
from sfumato.diffusion.samplers.heun import HeunSampler
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.evaluation.reference import HeldOut
from sfumato.experiment.build import build_model
from sfumato.experiment.score_run import protocol
from sfumato.explore.samples import GuidedModel
from sfumato.speed import sample_compiled
from sfumato.speed.kernels.norm import find_compiler
from sfumato.speed.plan import REFERENCE, Plan, apply_plan, with_plan
from sfumato.speed.plan_search import TOLERANCE
from sfumato.speed.sample_compiled import say_once
from sfumato.speed.sampling import sample_images
from support.experiments import DIFFUSION, GAN, experiment

COMPILED = Plan(compile=True)
LABELS = torch.arange(10) % 3


def model_under(plan: Plan, **config: Any) -> Any:
    """A small model away from its initialization, the same in every call."""
    torch.manual_seed(0)
    sampler = HeunSampler(steps=2)
    model = DiffusionConfig(network=TINY["unet"], sampler=sampler, **config).build((1, 16, 16), 3)
    moved(model.denoiser.network)
    apply_plan(model.eval().requires_grad_(False), plan)
    return model


class Compiler:
    """Stands in for torch.compile: computes the same, and remembers for how many images."""

    def __init__(self, broken: bool = False) -> None:
        self.sizes: list[int] = []
        self.broken = broken

    def __call__(self, forward: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        assert not dynamic

        def compiled(*inputs: Any) -> Any:
            self.sizes.append(len(inputs[0]))
            if self.broken:
                raise RuntimeError("the compiler fell over\nwith many lines")
            return forward(*inputs)

        return compiled


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    found = Compiler()
    monkeypatch.setattr(torch, "compile", found)
    monkeypatch.setattr(sample_compiled, "COMPILE_PAYS", 0.0)
    say_once.cache_clear()
    return found


def test_whole_batches_after_the_first_are_compiled(compiler: Compiler) -> None:
    """The second and third of 3 3 3 1, in each of the three evaluations of two Heun steps."""
    found = sample_images(model_under(COMPILED), LABELS, range(10), batch_size=3)
    assert compiler.sizes == [3] * 2 * 3
    eager = sample_images(model_under(REFERENCE), LABELS, range(10), batch_size=3)
    assert torch.equal(found, eager)
    assert len(compiler.sizes) == 6


def test_guidance_within_an_interval_has_two_sizes(compiler: Compiler) -> None:
    guidance = ClassifierFreeGuidance(scale=2.0, interval=(0.0, 1.0))
    sample_images(model_under(COMPILED, guidance=guidance), LABELS, range(10), batch_size=3)
    assert set(compiler.sizes) == {3, 6}


def test_it_is_the_estimated_time_that_decides(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_compiled, "COMPILE_PAYS", 600.0)
    model = model_under(COMPILED)
    sample_images(model, LABELS, range(10), batch_size=3)
    assert compiler.sizes == []
    assert sample_compiled.worth_compiling(model, 599.0) == {}
    assert set(sample_compiled.worth_compiling(model, 601.0)) == {model.denoiser.network}
    assert sample_compiled.worth_compiling(model_under(REFERENCE), 601.0) == {}


def test_a_single_batch_and_a_gan_stay_eager(compiler: Compiler) -> None:
    sample_images(model_under(COMPILED), LABELS, range(10), batch_size=10)
    config = with_plan(experiment(GAN), COMPILED)
    gan = build_model(config, load(config.data).train).eval()
    apply_plan(gan, COMPILED)
    sample_images(gan, LABELS, range(10), batch_size=3)
    assert compiler.sizes == []


def test_both_networks_of_autoguidance_are_compiled(compiler: Compiler) -> None:
    strong, weak = model_under(COMPILED), model_under(REFERENCE)
    guided = GuidedModel(strong, AutoGuided(strong.denoiser, weak.denoiser, 2.0))
    networks = {strong.denoiser.network, weak.denoiser.network}
    assert set(sample_compiled.worth_compiling(guided, 1.0)) == networks


def test_a_compiler_that_fails_costs_one_message_and_no_image(
    compiler: Compiler, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler.broken = True
    model = model_under(COMPILED)
    found = [sample_images(model, LABELS, range(10), batch_size=3) for _ in range(2)]
    eager = sample_images(model_under(REFERENCE), LABELS, range(10), batch_size=3)
    assert all(torch.equal(images, eager) for images in found)
    assert len(compiler.sizes) == 1  # not tried again
    said = capsys.readouterr().err
    assert said.count("without torch.compile, which failed: the compiler fell over") == 1
    assert "many lines" not in said


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (COMPILED, "float32, contiguous, compiled where it pays"),
        (Plan(precision="bfloat16"), "bfloat16, contiguous"),
    ],
)
def test_the_protocol_of_scores_says_whether_sampling_is_compiled(plan: Plan, words: str) -> None:
    config = with_plan(experiment(DIFFUSION), plan)
    evaluator = HeldOut(load(config.data), EvaluationConfig(num_images=8, memorization=False))
    stamp = protocol(evaluator, config)
    assert stamp["performance"] == words


@pytest.mark.slow
@pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_samples_are_those_of_eager_code_to_the_tolerance_of_the_plan(
    precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guided; neither another batch nor a smaller one is compiled again."""
    monkeypatch.setattr(sample_compiled, "COMPILE_PAYS", 0.0)
    torch._dynamo.reset()
    guidance = ClassifierFreeGuidance(scale=2.0)
    model = model_under(Plan(precision=precision, compile=True), guidance=guidance)
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    sample_images(model, LABELS[:6], range(6), batch_size=3)
    once = graphs["unique_graphs"]
    assert once > 0
    compiled = sample_images(model, LABELS, range(10), batch_size=3).double()
    # Checks of shapes at run time cut the network into many; all of them anew would be twice.
    assert graphs["unique_graphs"] < 1.5 * once
    model = model_under(Plan(precision=precision), guidance=guidance)
    eager = sample_images(model, LABELS, range(10), batch_size=3).double()
    assert torch.equal(compiled[:3], eager[:3])  # the first batch is eager
    assert torch.equal(compiled[9:], eager[9:])  # so is the last
    assert (compiled - eager).norm() < TOLERANCE[precision] * (eager - 127.5).norm()
