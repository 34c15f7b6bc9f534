"""Feature networks, and the features of a set of images as metrics see them."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from sfumato.core.images import Labels, UInt8Images
from sfumato.metrics.estimate import Strata
from sfumato.metrics.frechet import FrechetReference

Result = TypeVar("Result")
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


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What one pass over a set of images gives, and so all that a metric may use of it.

    Args:
        features: of each image; None if only their moments were kept.
        predicted: the class that the judge of labels sees in each image; None without a judge.
        labels: the class each image should show; None if unknown or not asked for.
        strata: the classes, if the number of images of each was fixed in advance.
        head: of the feature network: features times its transpose are logits.
        moments: mean and covariance of the features, if they were computed already.
    """

    features: Float[Tensor, "N d"] | None = None
    predicted: Int64[Tensor, " N"] | None = None
    labels: Labels | None = None
    strata: Strata | None = None
    head: Float[Tensor, "K d"] | None = None
    moments: FrechetReference | None = None
    _shared: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        if self.features is not None:
            return len(self.features)
        return 0 if self.moments is None else self.moments.n

    @property
    def vectors(self) -> Float[Tensor, "N d"]:
        """The features, which the caller knows to be there."""
        assert self.features is not None
        return self.features

    @cached_property
    def frechet(self) -> FrechetReference:
        """Mean and covariance, prepared for Fréchet distances."""
        return self.moments or FrechetReference.of(self.vectors)

    def subset(self, rows: Bool[Tensor, " N"], label: int) -> "ImageFeatures":
        """The images of one class."""
        predicted = None if self.predicted is None else self.predicted[rows]
        labels = torch.full((int(rows.sum()),), label)
        return ImageFeatures(self.vectors[rows], predicted, labels, head=self.head)

    def together(
        self, compute: Callable[["ImageFeatures", "ImageFeatures"], Result], real: "ImageFeatures"
    ) -> Result:
        """`compute(self, real)`, kept for other metrics that come from the same computation."""
        if (compute, real) not in self._shared:
            self._shared[compute, real] = compute(self, real)
        result: Result = self._shared[compute, real]
        return result


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
