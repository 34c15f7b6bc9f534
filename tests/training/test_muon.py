"""Muon: orthogonal updates of matrices, AdamW for the rest, exact resume."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sfumato.experiment.training_run import train
from sfumato.training.optimizer import COEFFICIENTS, Muon, orthogonalized
from support.experiments import DIFFUSION, experiment
from support.processes import silent


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (32, 32)])
def test_an_orthogonalized_matrix_keeps_its_singular_vectors(shape: tuple[int, int]) -> None:
    """U S V^T becomes U D V^T with D near 1, whatever S."""
    random = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(*shape, generator=random), full_matrices=False)
    s = torch.linspace(1.0, 0.1, min(shape))
    rotated = u.T @ orthogonalized(u @ s.diag() @ v) @ v.T
    torch.testing.assert_close(rotated, rotated.diag().diag(), atol=0.05, rtol=0)
    assert rotated.diag().min() > 0.65
    assert rotated.diag().max() < 1.25


@pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
def test_in_float32_the_singular_values_are_those_of_the_polynomial(shape: tuple[int, int]) -> None:
    """The iteration maps each singular value s, of a norm of 1, to a s + b s^3 + c s^5."""
    random = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(*shape, generator=random), full_matrices=False)
    s = torch.linspace(1.0, 0.1, min(shape))
    mapped = (s / s.norm()).double()
    a, b, c = COEFFICIENTS
    for _ in range(5):
        mapped = a * mapped + b * mapped**3 + c * mapped**5
    exact = u @ mapped.float().diag() @ v
    polar = u @ v
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        found = orthogonalized(u @ s.diag() @ v, dtype)
        errors[dtype] = (found - exact).abs().max().item()
        assert torch.linalg.matrix_norm(found - polar, ord=2) < 0.35
    assert errors[torch.float32] < 1e-5
    assert errors[torch.bfloat16] > 100 * errors[torch.float32]


@pytest.mark.parametrize("fast", [False, True])
def test_muon_iterates_in_bfloat16_only_when_it_is_to_be_fast(fast: bool) -> None:
    module = nn.Linear(32, 16, bias=False)
    before = module.weight.detach().clone()
    module.weight.grad = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    ahead = (1 - 0.95**2) * module.weight.grad  # Nesterov's momentum after one step
    Muon(module, 0.1, 0.95, (0.9, 0.999), 1e-8, 0.0, fast).step()
    found = (before - module.weight) / (0.1 * 0.2 * 32**0.5)
    for dtype, same in ((torch.bfloat16, fast), (torch.float32, not fast)):
        expected = orthogonalized(ahead, dtype)
        assert torch.allclose(found, expected, atol=1e-4) == same


@pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
def test_matrices_in_a_stack_are_made_orthogonal_each_by_itself(shape: tuple[int, int]) -> None:
    stack = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    stack[1] *= 100  # a norm of the whole stack would show
    alone = torch.stack([orthogonalized(matrix) for matrix in stack])
    # the products of a stack are summed in another order, in bfloat16
    torch.testing.assert_close(orthogonalized(stack), alone, atol=0.02, rtol=0)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 32)
        self.conv = nn.Conv2d(16, 32, 3)
        self.last = nn.Conv2d(32, 1, 3)


def gradients(module: nn.Module) -> None:
    random = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random)


def test_what_is_no_matrix_moves_as_with_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = Mixed(), Mixed()
    theirs.load_state_dict(ours.state_dict())
    optimizers = (
        Muon(ours, 1e-2, 0.95, (0.9, 0.99), 1e-8, 0.1),
        torch.optim.AdamW(
            theirs.parameters(), 1e-2, betas=(0.9, 0.99), weight_decay=0.1, fused=True
        ),
    )
    for _ in range(3):
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            gradients(module)
            optimizer.step()
    for name, parameter in ours.named_parameters():
        same = torch.equal(parameter, theirs.get_parameter(name))
        assert same == (name != "conv.weight"), name


def test_an_update_of_a_matrix_is_as_large_as_adamws() -> None:
    """Root mean square 0.2 times the learning rate, whatever the gradient's scale."""
    module = nn.Conv2d(16, 32, 3, bias=False)
    before = module.weight.detach().clone()
    module.weight.grad = 1e-3 * torch.randn(
        module.weight.shape, generator=torch.Generator().manual_seed(0)
    )
    Muon(module, 0.1, 0.95, (0.9, 0.999), 1e-8, 0.0).step()
    rms = (module.weight - before).pow(2).mean().sqrt().item()
    assert rms == pytest.approx(0.1 * 0.2, rel=0.2)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    # a network wide enough to have matrices
    base = DIFFUSION | {
        "model": DIFFUSION["model"] | {"network": DIFFUSION["model"]["network"] | {"channels": 16}}
    }
    whole = experiment(base, optimizer={"kind": "muon"}, decay_images=128)
    half = experiment(base, optimizer={"kind": "muon"}, decay_images=128, budget_images=64)
    train(whole, tmp_path / "whole", log=silent)
    train(half, tmp_path / "parts", log=silent)
    train(whole, tmp_path / "parts", resume=True, log=silent)
    finals = [load_file(tmp_path / name / "final.safetensors") for name in ("whole", "parts")]
    for name, expected in finals[0].items():
        assert torch.equal(finals[1][name], expected), name
