"""The Inception network of the FID, as ported by torch-fidelity, made faster."""

import hashlib
import importlib
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.config import component
from sfumato.core.device import default_device
from sfumato.core.images import UInt8Images
from sfumato.metrics.estimate import MetricError
from sfumato.metrics.features import FeatureNetwork, few_at_once, fold_norm, tensors_digest
from sfumato.metrics.resize import as_rgb, clean_resize, tensorflow_resize

URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the file; the publisher put its beginning into the name."""
TIMEOUT_SECONDS = 10
SIZE = (299, 299)


@component
class InceptionFeatures:
    """The 2048 pooled features of the Inception network of 2015, those of the FID.

    Args:
        resize: "tensorflow" as in the published FID; "clean" as in clean-fid.
        weights: a file of the weights; None: downloaded once into the cache.
    """

    kind: Literal["inception"] = "inception"
    resize: Literal["tensorflow", "clean"] = "tensorflow"
    weights: Path | None = None

    def build(self, cache: Path) -> FeatureNetwork:
        """The network with its weights, on the default device.

        Raises:
            MetricError: torch-fidelity is missing, or the weights are missing or wrong.
        """
        path = self.weights or standard_weights(cache)
        tensors, is_standard = read_weights(path)
        body, head = inception(tensors)
        device = default_device()
        body.to(device)
        resize = tensorflow_resize if self.resize == "tensorflow" else clean_resize

        def compute(images: UInt8Images) -> Float[Tensor, "B 2048"]:
            pixels = resize(as_rgb(images.to(device)), SIZE)
            features: Tensor = body(pixels.to(memory_format=torch.channels_last))
            return features

        name = "inception" if is_standard else f"inception with weights {path.name}"
        digest = tensors_digest(tensors)
        return FeatureNetwork(name, digest, 2048, self.resize, few_at_once(compute), head)


def inception(tensors: dict[str, Tensor]) -> tuple[nn.Module, Float[Tensor, "1008 2048"]]:
    """The network from pixels in 0..255 to pooled features, and the weights of its last layer.

    Batch normalization is folded into the convolutions, the scaling of the pixels into the first
    one (which has no padding), and the memory layout is channels-last: the same features to
    rounding, in half the time.

    Raises:
        MetricError: torch-fidelity is missing, or the tensors are of another network.
    """
    try:
        library: Any = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except ImportError:
        raise MetricError(
            "the features 'inception' need the package torch-fidelity, which is not installed; "
            "run: pip install torch-fidelity"
        ) from None
    # The library unpickles the file it is given without care, so it gets one that we wrote.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "weights.pth"
        torch.save(tensors, copy)
        try:
            network = library.FeatureExtractorInceptionV3(
                "inception", ["2048"], feature_extractor_weights_path=str(copy)
            )
        except RuntimeError as error:
            raise MetricError(
                f"the weights are not those of the FID's Inception network: {error}"
            ) from None
    head = network.fc.weight.detach().clone()
    layers = [layer for name, layer in network.named_children() if name != "fc"]
    body = nn.Sequential(*layers, nn.Flatten()).eval().requires_grad_(False)
    for module in body.modules():
        convolution, norm = getattr(module, "conv", None), getattr(module, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            fold_norm(module, "conv", "bn")
    first = body[0].get_submodule("conv")  # (x - 128) / 128 comes before it
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    first.bias -= first.weight.sum((1, 2, 3))
    first.weight /= 128
    return body.to(memory_format=torch.channels_last), head


def read_weights(path: Path) -> tuple[dict[str, Tensor], bool]:
    """The tensors of a weights file, never executing anything in it, and whether they are FID's.

    Raises:
        MetricError: the file is missing, or is not a file of tensors.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise MetricError(
            f"cannot read the weights {path}: {error.strerror}; check features.weights"
        ) from None
    except Exception as error:  # torch.load raises whatever a broken file brings about
        raise MetricError(
            f"{path} is not a file of PyTorch tensors ({type(error).__name__}); give the file "
            f"that {URL} names"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise MetricError(f"{path} holds something else than named tensors; see {URL}")
    return tensors, digest == SHA256


def standard_weights(cache: Path) -> Path:
    """The standard weights in the cache, downloaded and verified if they are not there.

    Raises:
        MetricError: no connection, or another content than published.
    """
    import pooch

    path = cache / Path(URL).name
    if not path.exists():
        try:
            downloader = pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS)
            pooch.retrieve(URL, None, path.name, cache, downloader=downloader)
        except Exception as error:  # requests has a dozen kinds of failure
            raise MetricError(
                f"cannot download the Inception weights ({type(error).__name__}); fetch {URL} by "
                "other means and name the file in evaluation.features.weights, or use "
                "evaluation.features.kind=efficientnet-lite0"
            ) from None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        path.unlink()
        raise MetricError(
            f"the Inception weights from {URL} have SHA-256 {digest[:16]}..., not "
            f"{SHA256[:16]}...; they were deleted, try again"
        )
    return path
