"""The compiled normalization and the direct attention against PyTorch's operations."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.speed.kernels.fused_layers import Attention, GroupNorm, has_kernels, use_kernels
from sfumato.speed.kernels.norm import (
    Activation,
    NoCompiler,
    NormKernel,
    find_compiler,
    norm_kernel,
    reference,
)

if find_compiler() is None:
    pytest.skip("there is no C++ compiler", allow_module_level=True)

ACTIVATIONS = get_args(Activation)


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> NormKernel:
    return norm_kernel(tmp_path_factory.mktemp("kernels"))


def inputs(
    per_image: bool, dtype: torch.dtype, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    x = (3 + 2 * draw(*shape)).to(dtype).contiguous(memory_format=torch.channels_last)
    size = shape[:2] if per_image else shape[1:2]
    real = torch.float64 if dtype == torch.float64 else torch.float32
    a, b = (1 + 0.5 * draw(*size)).to(real), draw(*size).to(real)
    return x.requires_grad_(), a.requires_grad_(), b.requires_grad_()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("per_image", [False, True])
def test_the_gradients_of_the_kernel_are_right_in_float64(
    kernel: NormKernel, activation: Activation, per_image: bool
) -> None:
    """Against differences, and against automatic differentiation, also of the gradient."""
    x, a, b = inputs(per_image, torch.float64, (2, 6, 3, 2))

    def fast(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return kernel(x, a, b, 3, 1e-6, activation)

    def slow(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return reference(x, a, b, 3, 1e-6, activation)

    assert torch.autograd.gradcheck(fast, (x, a, b))
    assert torch.autograd.gradgradcheck(fast, (x, a, b))
    torch.testing.assert_close(fast(x, a, b), slow(x, a, b), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 8e-3)], ids=["f32", "bf16"]
)
@pytest.mark.parametrize(
    ("shape", "groups"), [((3, 20, 5, 7), 5), ((2, 256, 16, 16), 32), ((70, 64, 4, 4), 1)]
)
def test_the_kernel_equals_float64_to_rounding(
    kernel: NormKernel,
    activation: Activation,
    per_image: bool,
    dtype: torch.dtype,
    tolerance: float,
    shape: tuple[int, ...],
    groups: int,
) -> None:
    x, a, b = inputs(per_image, dtype, shape)
    y = kernel(x, a, b, groups, 1e-6, activation)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    exact = [t.detach().double().requires_grad_() for t in (x, a, b)]
    expected = reference(*exact, groups, 1e-6, activation)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    got = [y, *torch.autograd.grad(y, (x, a, b), dy)]
    want = [expected, *torch.autograd.grad(expected, exact, dy.double())]
    for ours, theirs in zip(got, want, strict=True):
        error = (ours.double() - theirs).abs().max() / theirs.abs().max()
        assert error < tolerance


def test_a_layer_gives_the_same_on_both_paths(kernel: NormKernel) -> None:
    """Channels last by the kernel, other strides by PyTorch's operations on either path."""
    torch.manual_seed(0)
    layer = GroupNorm(4, 16, eps=1e-6)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(5, 3, 6, 16).permute(0, 3, 2, 1)[:, :, ::2]
    scale, shift = torch.randn(5, 16), torch.randn(5, 16)
    plain = layer(x, scale, shift, "silu")
    by_hand = F.group_norm(x, 4, layer.weight, layer.bias, 1e-6)
    by_hand = F.silu(by_hand * (1 + scale)[:, :, None, None] + shift[:, :, None, None])
    torch.testing.assert_close(plain, by_hand)
    use_kernels(layer, kernel)
    assert layer.kernel is kernel
    assert not kernel.takes(x)
    assert not kernel.takes(x.contiguous())
    assert torch.equal(layer(x, scale, shift, "silu"), plain)
    last = x.contiguous(memory_format=torch.channels_last)
    assert kernel.takes(last)
    found = layer(last, scale, shift, "silu")
    assert not torch.equal(found, plain)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
    use_kernels(layer, None)
    assert torch.equal(layer(x, scale, shift, "silu"), plain)


@pytest.mark.parametrize("length", [5, 100, 200])
def test_direct_attention_equals_that_of_pytorch(kernel: NormKernel, length: int) -> None:
    qkv = torch.randn(2, 3, 4, 8, length, generator=torch.Generator().manual_seed(0))
    q, k, v = qkv.transpose(-1, -2).unbind(1)
    layer = Attention()
    plain = layer(q, k, v)
    assert torch.equal(plain, F.scaled_dot_product_attention(q, k, v))
    use_kernels(layer, kernel)
    torch.testing.assert_close(layer(q, k, v), plain, rtol=1e-5, atol=1e-6)


def test_a_network_says_whether_it_has_layers_with_a_fast_path() -> None:
    assert has_kernels(nn.Sequential(nn.Conv2d(3, 8, 1), GroupNorm(2, 8)))
    assert not has_kernels(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))


def test_without_a_working_compiler_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(NoCompiler, match=r"false cannot build norm\.cpp"):
        norm_kernel(tmp_path / "a")
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompiler, match=r"found no C\+\+ compiler"):
        norm_kernel(tmp_path / "b")
