"""What a discriminator says of images it trains on, of held-out and of generated ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.generative_model import GenerativeModel, Judging
from sfumato.core.images import Batch, from_uint8
from sfumato.core.noise import Noise
from sfumato.data.dataset import Dataset, Splits

IMAGES = 128
"""Of each kind, always the same real ones."""


class Watch:
    """Asks the discriminator about real images with and without those it trains on.

    All are shown as they are, without augmentation and noise, so that the three compare.
    """

    def __init__(self, splits: Splits) -> None:
        count = min(IMAGES, len(splits.train), len(splits.held_out))
        self._seen = _spread(splits.train, count)
        self._held_out = _spread(splits.held_out, count)

    def look(self, model: GenerativeModel, batch_size: int) -> dict[str, float]:
        """Mean logits, accuracies and r_v; nothing for a model without a discriminator.

        An accuracy is the share of images on the right side of the boundary between real and
        generated ones; where the loss leaves it open, of real images whose logit is higher than
        that of the generated one beside them. r_v is where held-out images lie between training
        images (0) and generated ones (1): 1 says that the discriminator knows its training images
        by heart.

        Args:
            batch_size: that of training: some discriminators look at a batch as a whole.
        Source: Karras et al. 2020 (ADA), eq. 1.
        """
        if not isinstance(model, Judging):
            return {}
        with torch.no_grad(), _undisturbed(model):
            seen = _logits(model, self._seen, batch_size)
            held_out = _logits(model, self._held_out, batch_size)
            labels = self._held_out.labels if model.num_classes else None
            model.eval()
            images = model.sample(labels, Noise(range(len(self._held_out))))
            model.train()
            generated = _logits(model, Batch(images, labels), batch_size)
        found = {"logits/seen": seen, "logits/held_out": held_out, "logits/sampled": generated}
        means = {name: float(logits.mean()) for name, logits in found.items()}
        for name in ("seen", "held_out"):
            above = generated if model.boundary is None else model.boundary
            right = (found[f"logits/{name}"] > above).float()
            means[f"accuracy/{name}"] = float(right.mean())
        if model.boundary is not None:
            means["accuracy/sampled"] = float((generated < model.boundary).float().mean())
        gap = means["logits/seen"] - means["logits/sampled"]
        if gap > 0:
            r_v = (means["logits/seen"] - means["logits/held_out"]) / gap
            means["overfitting/r_v"] = min(max(r_v, -1.0), 2.0)
        return means


def class_shares(dataset: Dataset) -> list[float]:
    """The share of each class; [] for a data set without labels."""
    if dataset.labels is None:
        return []
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    return [float(share) for share in counts / len(dataset)]


def _spread(dataset: Dataset, count: int) -> Batch:
    rows = np.unique(np.linspace(0, len(dataset) - 1, count).astype(np.int64))
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[rows])
    return Batch(from_uint8(dataset.take(rows)), labels)


def _logits(model: Judging, batch: Batch, size: int) -> Float[Tensor, " N"]:
    parts = [batch.part(slice(k, k + size)) for k in range(0, len(batch), size)]
    return torch.cat([model.logits(part).float().cpu() for part in parts])


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Batch statistics and the like are afterwards what they were."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    try:
        yield
    finally:
        model.train(training)
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
