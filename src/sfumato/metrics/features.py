"""Feature networks: from uint8 images to the vectors that distances are measured between."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sfumato.core.device import default_device
from sfumato.core.images import UInt8Images

AT_ONCE = 8
"""Images that go through a large network together on a CPU: so few that what lies between two
layers stays in its cache, which is a quarter faster than fifty."""
Compute = Callable[[UInt8Images], Float[Tensor, "B d"]]


@dataclass(frozen=True)
class FeatureNetwork:
    """A named, hashed function from images to features.

    Args:
        name: for the protocol.
        digest: SHA-256 of the weights.
        dim: the number of features.
        resize: how images reach the size of the network; "none" where they keep their own.
        compute: uint8 images [B, C, H, W] to features, on the device it chooses.
        head: features times its transpose are the logits of the Inception Score; None: it has none.
    """

    name: str
    digest: str
    dim: int
    resize: str
    compute: Compute
    head: Float[Tensor, "K d"] | None = None

    @torch.inference_mode()
    def __call__(self, images: UInt8Images) -> Float[Tensor, "B d"]:
        """Features, computed in float32 whatever else is in force, on the CPU."""
        with float32():
            return self.compute(images).float().cpu()


@contextmanager
def float32() -> Iterator[None]:
    """No autocast, and no product of matrices or convolution in fewer bits (TF32, bfloat16).

    Features in bfloat16 moved a Fréchet distance by 0.4 %.
    """
    matmul = torch.get_float32_matmul_precision()
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    with ExitStack() as stack:
        for device in devices:
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(matmul)


def few_at_once(compute: Compute) -> Compute:
    """The same features, computed in parts that suit the device."""
    if default_device().type != "cpu":
        return compute
    return lambda images: torch.cat([compute(part) for part in torch.split(images, AT_ONCE)])


def fold_norm(module: nn.Module, convolution: str, norm: str) -> None:
    """Fold a batch normalization into the convolution before it: the same to rounding."""
    before, after = module.get_submodule(convolution), module.get_submodule(norm)
    assert isinstance(before, nn.Conv2d)
    assert isinstance(after, nn.BatchNorm2d)
    setattr(module, convolution, fuse_conv_bn_eval(before, after))
    setattr(module, norm, nn.Identity())


def weight_digest(module: nn.Module) -> str:
    """SHA-256, in hexadecimal, of the names, shapes and values of a module's state."""
    return tensors_digest(module.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of the names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
