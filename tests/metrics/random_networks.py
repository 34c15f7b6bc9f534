"""Feature networks with random weights, and pictures for them to look at."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.noise import generator


def pictures(
    count: int, size: int = 40, seed: int = 0, channels: int = 3, cells: int = 6
) -> Tensor:
    """Smooth random images of `cells` x `cells` colours, as uint8."""
    random = generator("pictures", seed)
    coarse = torch.rand(count, channels, cells, cells, generator=random) * 255
    return F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 255).to(torch.uint8)


def write_random_inception(path: Path) -> None:
    """Weights of torch-fidelity's network, scaled so that what images show reaches the end."""
    library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(library.torch, "load", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        network = library.FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path="none"
        )
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(network.fc.weight, std=5.0)  # logits that are sure of some images
    torch.save(network.state_dict(), path)


def write_random_timm(path: Path, name: str) -> nn.Module:
    """Weights of a model of timm, which is returned, with blocks that do something.

    DINOv2 begins with layer scales of 1e-5, which images would not get past.
    """
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0).eval()
    for parameter, values in network.named_parameters():
        if parameter.endswith("gamma"):
            nn.init.ones_(values)
    torch.save(network.state_dict(), path)
    return network
