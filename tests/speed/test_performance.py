"""The performance plan: chosen, checked, remembered, kept, and equal to the reference."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from networks.test_gan_networks import PAIRS
from networks.tiny import TINY, moved
from sfumato.core.config import merge, to_mapping
from sfumato.core.console import say_once
from sfumato.core.errors import RunError, SfumatoError
from sfumato.core.files import write_json
from sfumato.core.noise import Noise
from sfumato.data.catalogue import load
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.evaluation.reference import HeldOut
from sfumato.experiment.experiment import build_model, with_plan
from sfumato.experiment.load import load_run, read_experiment
from sfumato.experiment.plan_choice import choose_plan, workload
from sfumato.experiment.score_run import protocol
from sfumato.experiment.training_run import train
from sfumato.runs.directory import read_json
from sfumato.speed import plan_search
from sfumato.speed.kernels.norm import find_compiler
from sfumato.speed.plan import REFERENCE, Plan, apply_plan, computing
from sfumato.speed.plan_search import TOLERANCE, Choice, PlanSearch
from sfumato.speed.sampling import sample_images
from sfumato.training.checkpoint import restore_tensors, trainer_tensors
from sfumato.training.trainer import Trainer
from sfumato.training.training_config import PLAN_KEYS
from support.experiments import DIFFUSION, GAN, experiment
from support.processes import silent
from training.test_train import tensors

CPU = torch.device("cpu")
FAST = Plan(precision="bfloat16", layout="channels_last", kernels=find_compiler() is not None)
OPEN = dict.fromkeys(PLAN_KEYS, "auto")
LONG = {**OPEN, "budget_images": None, "budget_steps": 200}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of its own: nothing is remembered from elsewhere."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SFUMATO_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def fixed(plan: Plan, base: dict[str, Any] = DIFFUSION, **training: Any) -> Any:
    return with_plan(experiment(base, **{"performance": "auto"} | training), plan)


@pytest.mark.parametrize("base", [DIFFUSION, GAN], ids=["diffusion", "gan"])
def test_the_choice_is_the_quickest_that_agrees_with_the_reference(base: dict[str, Any]) -> None:
    config = experiment(base, **LONG)
    choice = PlanSearch(workload(config, load(config.data).train, CPU)).run()
    own = choice.seconds(choice.plan)
    assert own is not None
    assert choice.candidates[0].plan == REFERENCE
    assert choice.candidates[0].error == 0
    assert len({c.plan.precision for c in choice.candidates}) == 2
    for candidate in choice.candidates:
        if not candidate.note:
            assert candidate.error is not None
            assert candidate.error <= TOLERANCE[candidate.plan.precision]
            assert candidate.seconds is not None
            assert own <= candidate.seconds / plan_search.WORTHWHILE
        if candidate.plan.precision == "bfloat16":
            assert candidate.error != 0  # it did compute something else


def test_a_candidate_whose_gradient_is_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_search, "TOLERANCE", {"float32": 1e-3, "bfloat16": 1e-6})
    config = experiment(DIFFUSION, **LONG | {"layout": "contiguous", "kernels": False})
    choice = PlanSearch(workload(config, load(config.data).train, CPU)).run()
    assert choice.plan == REFERENCE
    (refused,) = [c for c in choice.candidates if c.plan.precision == "bfloat16"]
    assert refused.note == "error above the tolerance"
    assert choice.seconds(refused.plan) is None


def test_what_the_config_fixes_is_not_chosen() -> None:
    config = experiment(DIFFUSION, **LONG | {"precision": "bfloat16", "layout": "channels_last"})
    choice = PlanSearch(workload(config, load(config.data).train, CPU)).run()
    assert (choice.plan.precision, choice.plan.layout) == ("bfloat16", "channels_last")
    given = choose_plan(fixed(FAST, **LONG), load(config.data).train, CPU)
    assert (given.plan, given.source) == (FAST, "given")


def test_a_choice_is_remembered_for_this_network_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment(DIFFUSION, **LONG)
    data = load(config.data).train
    cores = os.cpu_count() or 1
    for load_of_a_core, source in ((2.0, "timed on a busy machine"), (1.0, "timed")):
        monkeypatch.setattr(os, "getloadavg", lambda load=load_of_a_core: (load * cores, 0.0, 0.0))
        first = choose_plan(config, data, CPU)
        assert first.source == source
        assert choose_plan(config, data, CPU).plan == first.plan
        plan_search._while_busy.clear()

    def refuse(*arguments: Any) -> None:
        raise AssertionError("timed again")

    with monkeypatch.context() as patched:
        patched.setattr(PlanSearch, "run", refuse)
        again = choose_plan(config, data, CPU)
        assert (again.plan, again.source) == (first.plan, "remembered")
        with pytest.raises(AssertionError, match="timed again"):
            choose_plan(experiment(DIFFUSION, batch_size=32, **LONG), data, CPU)
        longer = choose_plan(experiment(DIFFUSION, **OPEN, budget_images=10**10), data, CPU)
        assert longer.source == "remembered"


def test_short_runs_and_reference_runs_time_nothing() -> None:
    data = load(experiment(DIFFUSION).data).train
    short = choose_plan(experiment(DIFFUSION, **OPEN), data, CPU)
    assert (short.plan, short.source) == (REFERENCE, "only 8 steps")
    reference = choose_plan(experiment(DIFFUSION, **LONG | {"performance": "reference"}), data, CPU)
    assert (reference.plan, reference.source) == (REFERENCE, "given")
    # "reference" switches everything off, whatever else a recipe says.
    off = fixed(FAST, performance="reference")
    assert Trainer(off.training, build_model(off, data), CPU).plan == REFERENCE


@pytest.mark.skipif(not Path("/bin/false").exists(), reason="needs a program that fails")
def test_a_compiler_that_fails_is_told_in_one_message(tmp_path: Path) -> None:
    """In a process of its own: torch reads CXX when it is imported."""
    command = [sys.executable, "-m", "sfumato", "train", "digits-ddpm", "training.compile=true"]
    environment = os.environ | {"CXX": "/bin/false"}
    found = subprocess.run(
        [*command, "-o", str(tmp_path / "run")], env=environment, capture_output=True, text=True
    )
    assert found.returncode == 2
    assert "training.compile is true, but torch.compile fails here" in found.stderr
    assert "set training.compile=false" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "run").exists()


def test_a_compiled_plan_without_a_compiler_is_refused_and_sampling_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = fixed(Plan(compile=True), budget_images=32, sample_images=0)
    run_dir = tmp_path / "run"
    train(fixed(REFERENCE, budget_images=32, sample_images=0), run_dir, log=silent)
    fast = fixed(replace(FAST, kernels=True, compile=True), budget_images=32, sample_images=0)
    write_json(run_dir / "config.json", to_mapping(fast))
    assert load_run(run_dir).plan == FAST  # sampling is eager
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    data = load(config.data).train
    with pytest.raises(SfumatoError, match=r"training\.compile is true, but there is no C\+\+"):
        choose_plan(config, data, CPU)
    with pytest.raises(SfumatoError, match=r"set training\.compile=false"):
        train(experiment(DIFFUSION, **OPEN | {"compile": True}), tmp_path / "new", log=silent)
    assert not (tmp_path / "new").exists()
    with monkeypatch.context() as patched:  # where no kernel has been built before
        patched.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
        with pytest.raises(SfumatoError, match=r"set training\.kernels=false"):
            choose_plan(experiment(DIFFUSION, **OPEN | {"kernels": True}), data, CPU)
        say_once.cache_clear()
        capsys.readouterr()
        loaded = [load_run(run_dir) for _ in range(2)][-1]
    assert loaded.plan == replace(FAST, kernels=False)
    assert loaded.experiment.training.kernels is False
    assert loaded.experiment.training.compile is False
    assert capsys.readouterr().err.count("there is no C++ compiler") == 1


def tf32_flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_tf32_is_allowed_while_a_fast_plan_computes_and_never_under_the_reference() -> None:
    """Flags of the process, which exist without a GPU; the backward pass counts too."""
    data = load(experiment(DIFFUSION).data).train
    images = next(data.batches(16, 0))
    seen: list[tuple[bool, bool]] = []

    def note(*_: Any) -> None:
        seen.append(tf32_flags())

    for plan in (FAST, REFERENCE, Plan(layout="channels_last"), REFERENCE):
        config = fixed(plan)
        trainer = Trainer(config.training, build_model(config, data), CPU)
        trainer.model.denoiser.network.register_forward_hook(note)
        next(trainer.model.denoiser.parameters()).register_hook(note)
        trainer.step(trainer.prepare(*images))
        sample_images(trainer.model.eval(), torch.arange(2), range(2), batch_size=2, plan=plan)
        assert seen == [(plan.is_fast,) * 2] * 5  # forward, backward, three sampling steps
        assert tf32_flags() == (False, False)
        seen.clear()


def exchange(source: Trainer, target: Trainer) -> dict[str, torch.Tensor]:
    """Bring one trainer to the state of another, as a checkpoint does; returns the state."""
    tensors = {name: tensor.clone() for name, tensor in trainer_tensors(source).items()}
    restore_tensors(target, {name: t.clone() for name, t in tensors.items()}, "test")
    return tensors


@pytest.mark.parametrize("kind", ["adam", "adamw", "muon"])
def test_optimizers_are_fused_under_fast_plans_alone_and_exchange_their_state(kind: str) -> None:
    base = merge(DIFFUSION, {"model": {"network": {"channels": 16, "dropout": 0.0}}})
    config = experiment(base, optimizer={"kind": kind}, batch_size=16)
    data = load(config.data).train
    batches = data.batches(16, 0)
    fast, other, reference = (
        Trainer(with_plan(config, plan).training, build_model(config, data), CPU)
        for plan in (FAST, Plan(layout="channels_last"), REFERENCE)
    )
    for trainer, fused in ((fast, True), (other, True), (reference, False)):
        (optimizer,) = trainer.optimizers.values()
        assert all(bool(group["fused"]) == fused for group in optimizer.param_groups)
    fast.step(fast.prepare(*next(batches)))
    for source, target in ((fast, reference), (reference, other)):
        tensors = exchange(source, target)
        kept = trainer_tensors(target)
        assert kept.keys() == tensors.keys()
        assert all(torch.equal(kept[name], tensors[name]) for name in tensors)
        target.step(target.prepare(*next(batches)))
    # The next step agrees too: the state means the same to both.
    exchange(other, reference)
    before = {name: p.detach().clone() for name, p in other.model.named_parameters()}
    moved_by = []
    for trainer in (other, reference):
        random = torch.Generator().manual_seed(0)
        for parameter in trainer.model.parameters():
            drawn = torch.randn(parameter.shape, generator=random)
            parameter.grad = torch.empty_like(parameter).copy_(drawn)  # in the same layout
        next(iter(trainer.optimizers.values())).step()
        moved = [(p.detach() - before[n]).flatten() for n, p in trainer.model.named_parameters()]
        moved_by.append(torch.cat(moved))
    error = (moved_by[0] - moved_by[1]).norm() / moved_by[0].norm()
    assert error < (0.02 if kind == "muon" else 1e-4)


def test_the_plan_is_in_the_run_directory_and_a_resumed_run_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    chosen = Plan(precision="bfloat16")
    monkeypatch.setattr(
        "sfumato.experiment.training_run.choose_plan",
        lambda *_: Choice(plan=chosen, source="timed"),
    )
    train(experiment(DIFFUSION, **OPEN, budget_images=64), run_dir, log=silent)
    monkeypatch.undo()
    assert read_json(run_dir, "performance.json")["plan"] == to_mapping(chosen)
    assert read_json(run_dir, "performance.json")["source"] == "timed"
    with pytest.raises(RunError, match=r"training\.precision \('bfloat16' -> 'float32'\)"):
        train(experiment(DIFFUSION), run_dir, resume=True, log=silent)
    longer = experiment(DIFFUSION, **OPEN, budget_images=96)
    train(longer, run_dir, resume=True, log=silent)
    assert read_experiment(run_dir).training.precision == "bfloat16"
    assert read_json(run_dir, "performance.json")["source"] == "timed"
    assert load_run(run_dir).plan == chosen
    assert load_run(run_dir, ["training.performance=reference"]).plan == REFERENCE


def test_under_a_fast_plan_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path,
) -> None:
    """Optimizer state and averages come back in the memory layout of the weights."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(fixed(FAST, sample_images=0), whole, log=silent)
    some = {"sample_images": 0, "budget_images": 64, "decay_images": 128}
    train(fixed(FAST, **some), parts, log=silent)
    rest = fixed(FAST, **some | {"budget_images": 128})
    train(rest, parts, resume=True, log=silent)
    expected, found = tensors(whole), tensors(parts)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_samples_under_a_fast_plan_are_those_of_the_reference_to_rounding(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(fixed(FAST, batch_size=64, budget_images=1280, sample_images=0), run_dir, log=silent)
    fast = load_run(run_dir)
    assert fast.plan == FAST
    reference = load_run(run_dir, ["training.performance=reference"])
    labels = torch.arange(20) % 10
    images = [
        sample_images(run.model, labels, range(20), plan=run.plan).double()
        for run in (fast, reference)
    ]
    error = (images[0] - images[1]).square().mean().sqrt()
    assert 0 < error < 4  # of 255 levels


def test_weights_and_averages_are_in_the_layout_of_the_plan() -> None:
    config = fixed(FAST)
    trainer = Trainer(config.training, build_model(config, load(config.data).train), CPU)
    wide = [p for p in trainer.model.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert wide
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
    kept = [t for t in trainer.averages[0].tensors.values() if t.ndim == 4 and min(t.shape) > 1]
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in kept)
    apply_plan(trainer.model, REFERENCE)
    assert all(p.is_contiguous() for p in trainer.model.parameters())


def test_performance_json_says_what_the_choice_was_made_from() -> None:
    config = experiment(DIFFUSION, **LONG)
    found = choose_plan(config, load(config.data).train, CPU).to_mapping()
    assert json.loads(json.dumps(found)) == found
    assert found["candidates"][0]["seconds"] > 0
    assert found["tolerance"] == TOLERANCE


@pytest.mark.slow
@pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")
def test_a_compiled_run_trains_as_an_eager_one() -> None:
    config = fixed(Plan(compile=True))
    data = load(config.data).train
    losses = []
    for plan in (REFERENCE, Plan(compile=True)):
        trainer = Trainer(with_plan(config, plan).training, build_model(config, data), CPU)
        batches = data.batches(16, 0)
        for _ in range(3):
            trainer.step(trainer.prepare(*next(batches)))
        losses.append(trainer.means.means()["loss/denoiser"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")
def test_phases_that_differentiate_a_gradient_stay_eager() -> None:
    """torch.compile refuses them: a compiled discriminator would fail in the penalty."""
    changes = {
        "regularizers": [{"kind": "r1", "every": 2}],
        "network": {"normalization": "layer"},
    }
    base = merge(GAN, {"model": changes})
    config = fixed(Plan(compile=True), base)
    data = load(config.data).train
    trainer = Trainer(config.training, build_model(config, data), CPU)
    batches = data.batches(16, 0)
    for _ in range(2):
        trainer.step(trainer.prepare(*next(batches)))
    assert trainer.means.means()["loss/r1"] > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TINY)
def test_every_network_computes_the_same_under_fast_plans(
    name: str, precision: Literal["float32", "bfloat16"]
) -> None:
    """Output and gradient, within the tolerance that a plan is chosen by."""
    torch.manual_seed(0)
    network = moved(TINY[name].build((3, 16, 24), 3))
    x, target = torch.randn(2, 4, 3, 16, 24)
    noise_label, labels = torch.tensor([1.0, 10.0, 100.0, 999.0]), torch.arange(4)

    def computed(plan: Plan) -> list[torch.Tensor]:
        apply_plan(network, plan)
        network.zero_grad()
        with computing(CPU, plan):
            output = network(x, noise_label, labels)
        (output.float() - target).square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        return [output.detach().float(), gradient]

    reference = computed(REFERENCE)
    for layout in ("contiguous", "channels_last"):
        plan = Plan(precision=precision, layout=layout, kernels=FAST.kernels)
        for found, expected in zip(computed(plan), reference, strict=True):
            assert (found - expected).norm() < TOLERANCE[precision] * expected.norm()
    assert torch.equal(computed(REFERENCE)[0], reference[0])  # and back


def test_grey_images_take_the_layout_of_the_plan() -> None:
    """A weight for one channel counts as laid out either way; what comes out of it must not."""
    one = experiment(merge(DIFFUSION, {"model": {"network": {"patch": 1}}}))
    model = build_model(one, load(one.data).train)
    stem = model.denoiser.network.stem
    assert stem.weight.shape[1] == 1
    images = torch.zeros(2, 1, 8, 8)
    for layout in ("channels_last", "contiguous"):
        apply_plan(model, Plan(layout=layout))
        outcome = stem(images)
        assert outcome.is_contiguous() == (layout == "contiguous")
        assert outcome.is_contiguous(memory_format=torch.channels_last) == (
            layout == "channels_last"
        )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_computes_the_same_under_fast_plans(
    name: str, precision: Literal["float32", "bfloat16"]
) -> None:
    """Images, logits, and the gradient of the logits in the generator, for every GAN.

    In bfloat16 this gradient, a sum of kinks that half cancel, is allowed three times as much. The
    search for a plan judges the gradient of a real step, and refuses what misses the tolerance.
    """
    torch.manual_seed(0)
    generator, discriminator = PAIRS[name].build((3, 16, 16), 3)
    both = torch.nn.ModuleList([generator, discriminator])
    z, labels = torch.randn(4, generator.latent_dim), torch.arange(4) % 3

    def computed(plan: Plan) -> list[torch.Tensor]:
        apply_plan(both, plan)
        both.zero_grad()
        torch.manual_seed(1)
        with computing(CPU, plan):
            images = generator(z, labels, Noise(range(4)))
            logits = discriminator(images, labels)
        logits.float().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in generator.parameters()])
        return [images.detach().float(), logits.detach().float(), gradient]

    state = {name: tensor.clone() for name, tensor in both.state_dict().items()}
    reference = computed(REFERENCE)
    for layout in ("contiguous", "channels_last"):
        both.load_state_dict(state)  # running statistics and spectral vectors
        plan = Plan(precision=precision, layout=layout, kernels=FAST.kernels)
        factors = (1, 1, 3 if precision == "bfloat16" else 1)
        for factor, found, expected in zip(factors, computed(plan), reference, strict=True):
            assert (found - expected).norm() < factor * TOLERANCE[precision] * expected.norm()


@pytest.mark.parametrize(
    "plan", [Plan(precision="bfloat16"), Plan(precision="bfloat16", compile=True)]
)
def test_the_protocol_of_scores_names_the_plan_of_sampling(plan: Plan) -> None:
    config = with_plan(experiment(DIFFUSION), plan)
    evaluator = HeldOut(load(config.data), EvaluationConfig(num_images=8, memorization=False))
    assert protocol(evaluator, config)["performance"] == "bfloat16, contiguous"
