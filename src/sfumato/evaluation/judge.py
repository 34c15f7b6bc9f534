"""The classifiers of an evaluation, and which training images they and the floor may use.

Both are trained on the data set that is evaluated, in seconds, and kept in the cache under the
content they were made from.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.config import to_mapping
from sfumato.core.console import progress_bar
from sfumato.core.distributed import default_device
from sfumato.core.errors import ConfigError, RunError
from sfumato.core.files import cache_folder
from sfumato.core.images import Images, UInt8Images, from_uint8
from sfumato.core.noise import derive_seed, generator
from sfumato.core.tensors import load_into, read_tensors, write_tensors
from sfumato.data.cache import make_folder
from sfumato.data.dataset import Dataset, EpochOrder, Splits, permutation
from sfumato.networks.classifier import Classifier, ClassifierConfig

VERSION = 1
"""Of the training below: raised when a change of it changes the weights."""
REPEATS, SHORTEST = 40, 40_000
"""Every image is seen 40 times, but in total at least that many."""

Indices = Int64[np.ndarray, " _"]
LARGEST_SHARE = 0.7
"""Of the training images, at most that share is set aside for the floor."""


@dataclass(frozen=True)
class Folds:
    """Positions among the training images.

    Args:
        floor: the N images of the floor, drawn at random as the samples of a model are.
        features: the images that a feature network may be trained on; none of the floor's.
        judge: the images that the judge of labels is trained on: all that `features` leaves. Its
            own floor is its accuracy on held-out images, which neither fold contains.
    """

    floor: Indices
    features: Indices
    judge: Indices


def make_folds(splits: Splits, num_images: int | None, seed: int) -> Folds:
    """Divide the training images; which falls where depends on content and seed alone.

    Args:
        splits: the data.
        num_images: N; None: as many as the held-out split has, or as many as leave three tenths
            of the training images to learn features from.
    Raises:
        ConfigError: N is larger than the held-out split or the training images allow.
    """
    train, held_out = len(splits.train), len(splits.held_out)
    reach, most = int(LARGEST_SHARE * train), most_images(splits)
    count = most if num_images is None else num_images
    if count > held_out:
        raise ConfigError(
            f"evaluation.num_images is {count}, but only {held_out} images are held out; set it "
            f"to at most {most} (or leave it out), hold out more with "
            "data.held_out, or score against the training images: sfumato evaluate RUN DATA:train"
        )
    if count > reach:
        raise ConfigError(
            f"evaluation.num_images is {count}, but of {train} training images at most {reach} "
            "can be set aside for the floor (features are learned from the others); set it to at "
            f"most {reach}, or leave it out"
        )
    if count < 4:
        raise ConfigError(
            f"an evaluation needs at least 4 images a side, and the data allow {count} "
            f"({train} training images, {held_out} held out); use more data"
        )
    order = _shuffled(splits.train, seed)
    set_aside = max(count, train // 2)
    return Folds(order[:count], order[set_aside:], order[:set_aside])


def most_images(splits: Splits) -> int:
    """The largest N that the data allow."""
    return min(len(splits.held_out), int(LARGEST_SHARE * len(splits.train)))


def _shuffled(train: Dataset, seed: int) -> Indices:
    """The positions in an order given by content and seed; equal images are neighbours."""
    key = np.ascontiguousarray(train.hashes[:, 16:24]).view("<u8").ravel()
    distinct, group = np.unique(key, return_inverse=True)
    rank = np.argsort(permutation(len(distinct), derive_seed("folds", seed), 0))
    order: Indices = np.argsort(rank[group], kind="stable")
    return order


def train_classifier(
    dataset: Dataset,
    fold: Indices,
    config: ClassifierConfig,
    seed: int,
    cache: Path | None = None,
    most_images: int = 150_000,
) -> Classifier:
    """A classifier of `dataset` trained on the images `fold`, from the cache if it is there.

    Training is a function of the images, labels, config and seed (to rounding: another number of
    threads may round differently). The images are shifted at random by a pixel or so.

    Args:
        dataset: with labels.
        fold: positions of the images to train on.
        config: the network.
        seed: of the initialization, the order and the shifts.
        cache: folder to keep the weights in; None: `classifiers` in Sfumato's cache.
        most_images: training stops after that many, counted with repetition.
    Returns:
        The module in evaluation mode, on the default device.
    Raises:
        ConfigError: the data set has no labels, or the fold is empty.
    """
    if dataset.labels is None or len(fold) < 2:
        raise ConfigError(
            f"a classifier needs labels and at least 2 images; data set {dataset.name!r} has "
            f"{dataset.num_classes} classes and the fold {len(fold)} images"
        )
    folder = make_folder(cache or cache_folder() / "classifiers")
    path = folder / f"{_key(dataset, fold, config, seed, most_images)}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("classifier", seed))
        classifier = config.build(dataset.image_shape, dataset.num_classes)
        classifier.to(default_device()).to(memory_format=torch.channels_last)
        if not _load(classifier, path):
            _train(classifier, dataset, fold, seed, most_images)
            write_tensors(path, classifier.state_dict())
    return classifier.eval().requires_grad_(False)


def _key(
    dataset: Dataset, fold: Indices, config: ClassifierConfig, seed: int, most_images: int
) -> str:
    """The name of a classifier in the cache: a digest of all that determines it."""
    made_from = {
        "version": VERSION,
        "dataset": dataset.digest,
        "fold": hashlib.sha256(np.sort(fold).astype("<i8").tobytes()).hexdigest(),
        "config": to_mapping(config),
        "seed": seed,
        "most_images": most_images,
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]


def _load(classifier: Classifier, path: Path) -> bool:
    """Load the cached weights; False if they are missing or damaged."""
    try:
        load_into(classifier, read_tensors(path), str(path))
    except RunError:
        return False
    return True


def _train(
    classifier: Classifier, dataset: Dataset, fold: Indices, seed: int, most_images: int
) -> None:
    """AdamW with a one-cycle learning rate."""
    assert dataset.labels is not None
    budget = min(max(REPEATS * len(fold), SHORTEST), most_images)
    batch = 64 if len(fold) < 5_000 else 128
    steps = budget // batch
    device = next(classifier.parameters()).device
    fold, order = np.sort(fold), EpochOrder(len(fold), derive_seed("classifier order", seed))
    shifts = generator("classifier shifts", seed)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    classifier.train()
    with progress_bar("training a classifier", steps) as on_progress:
        for step in range(steps):
            at = fold[order.at(step * batch, batch)]
            images = shifted(from_uint8(dataset.take(at)), shifts).to(device)
            labels = torch.from_numpy(dataset.labels[at]).to(device)
            loss = F.cross_entropy(classifier(images), labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            on_progress(step + 1)


def shifted(images: Images, random: torch.Generator) -> Images:
    """Each image moved by up to 1 pixel in 28 (at least 1) each way, its border repeated."""
    count, _, height, width = images.shape
    most = max(1, round(max(height, width) / 28))
    moves = torch.randint(0, 2 * most + 1, (2, count, 1), generator=random)
    padded = F.pad(images, (most,) * 4, mode="replicate")
    rows = (moves[0] + torch.arange(height))[:, :, None]
    columns = (moves[1] + torch.arange(width))[:, None, :]
    moved: Tensor = padded.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows, columns]
    return moved.permute(0, 3, 1, 2)


@torch.inference_mode()
def classifier_features(classifier: Classifier, images: UInt8Images) -> Float[Tensor, "B d"]:
    """The penultimate activations of uint8 images."""
    device = next(classifier.parameters()).device
    return classifier.features(from_uint8(images.to(device)))


@torch.inference_mode()
def classify(classifier: Classifier, images: UInt8Images) -> Int64[Tensor, " B"]:
    """The most likely class of each image, on the CPU."""
    device = next(classifier.parameters()).device
    predicted: Tensor = classifier(from_uint8(images.to(device))).argmax(1)
    return predicted.cpu()
