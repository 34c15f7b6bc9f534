"""A small convolutional classifier: the feature network and the judge of labels for small images.

Networks trained on ImageNet say little of grey 8x8 digits; this one is trained on the data set
that is judged, in seconds. Its penultimate activations are features for distances between images.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.config import PositiveInt, component
from sfumato.core.images import Shape


@component
class ClassifierConfig:
    """Convolutions that halve the image down to 4x4 or less, then two linear layers.

    Args:
        width: channels of the first convolution; they double with each halving, at most 4 times.
        num_features: size of the penultimate layer.
        stem_stride: stride of the first convolution; None: 2 from 16 pixels up, else 1.
    """

    kind: Literal["classifier"] = "classifier"
    width: PositiveInt = 32
    num_features: PositiveInt = 64
    stem_stride: Literal[1, 2] | None = None

    def build(self, image_shape: Shape, num_classes: int) -> "Classifier":
        """A classifier with random weights for images [C, H, W] of `num_classes` classes."""
        return Classifier(self, image_shape, num_classes)


class Classifier(nn.Module):
    """Images in [-1, 1] to class logits; `features` gives the activations one layer before."""

    def __init__(self, config: ClassifierConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        stride = config.stem_stride or (2 if min(height, width) >= 16 else 1)
        layers = [_convolution(channels, config.width, 5 if stride == 2 else 3, stride)]
        height, width = -(-height // stride), -(-width // stride)
        channels = config.width
        while max(height, width) > 4:
            wider = min(2 * channels, 4 * config.width)
            layers += [_convolution(channels, wider, 3), nn.MaxPool2d(2, ceil_mode=True)]
            channels, height, width = wider, -(-height // 2), -(-width // 2)
        layers.append(_convolution(channels, channels, 3))
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.penultimate = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(channels * height * width, config.num_features, bias=False),
            nn.BatchNorm1d(config.num_features),
        )
        self.head = nn.Linear(config.num_features, num_classes)

    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B d"]:
        """The penultimate activations, before their ReLU."""
        activations: Tensor = self.penultimate(
            self.body(images.contiguous(memory_format=torch.channels_last))
        )
        return activations

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Class logits."""
        return self.classify(self.features(images))

    def classify(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        """Class logits from the features."""
        logits: Tensor = self.head(features.relu())
        return logits


def _convolution(channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
