"""The distance between any two sets of images: a stand-alone FID tool with floor and interval."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from sfumato.core.console import say
from sfumato.core.errors import ConfigError, SfumatoError
from sfumato.core.files import cache_folder
from sfumato.core.images import Shape, UInt8Images
from sfumato.data.cache import make_folder
from sfumato.data.dataset import Dataset, Splits
from sfumato.data.source import as_items
from sfumato.evaluation.copies import Copies, Pictures, find_copies
from sfumato.evaluation.evaluation_results import Results, too_few
from sfumato.evaluation.evaluator import Evaluator
from sfumato.evaluation.feature_cache import Observed, Observer, storage
from sfumato.evaluation.image_sources import SAMPLES, ImageSet, draw, drawn_alike
from sfumato.evaluation.protocol import (
    ClassifierFeatures,
    EvaluationConfig,
    Features,
    stamped,
    stamped_classes,
)
from sfumato.evaluation.provenance import origin, training_images
from sfumato.evaluation.side import Side
from sfumato.metrics.estimate import MetricError
from sfumato.metrics.features import FeatureNetwork
from sfumato.metrics.inception import InceptionFeatures, standard_weights
from sfumato.metrics.pretrained import EfficientNetFeatures

REFERENCE_SEEDS = 1_000_000
"""Where the seeds of a run that is the reference begin: sides that share noise would be alike."""
UNEVEN, TOLD = 0.1, 5
"""Classes whose floor is of so much more or less images than their score are told, so many."""
SMALLEST = 16
"""Pixels a side below which features of ImageNet say little."""


def default_features(shape: Shape, has_classes: bool, cache: Path | None = None) -> Features:
    """The classifier for grey or tiny images whose classes are known, else Inception.

    Where Inception's weights cannot be had it is EfficientNet-lite0, which is said. The choice
    follows the reference, so that all that is measured against it can be compared.
    """
    channels, height, width = shape
    if has_classes and (channels == 1 or min(height, width) < SMALLEST):
        return ClassifierFeatures()
    try:
        standard_weights(make_folder((cache or cache_folder()) / "weights"))
    except MetricError as error:
        say(f"features efficientnet-lite0, since those of the FID cannot be had: {error}")
        return EfficientNetFeatures()
    return InceptionFeatures()


def compare(
    a: ImageSet, b: ImageSet, config: EvaluationConfig, cache: Path | None = None
) -> Results:
    """Score the images of `a` against those of `b`, the reference.

    The floor is the same metric between real images: the other split of `b` where it has one, else
    a part of `b` against the rest.

    Raises:
        ConfigError, MetricError: too few images, or features that cannot be had.
    """
    cache = cache or cache_folder()
    a, b = drawn_alike(a, b, config.seed), drawn_alike(b, a, config.seed)
    b = replace(b, first_seed=REFERENCE_SEEDS)
    if isinstance(config.features, ClassifierFeatures):
        return _with_classifier(a, b, config, cache)
    network = config.features.build(make_folder(cache / "weights"))
    observer = Observer(network, None, cache, config.batch_size)
    count = _count(a, b, config.num_images)
    size_b = len(b) or _count(b, a, config.num_images)
    names = a.class_names if a.class_names == b.class_names else ()
    side = Side(b, size_b, count, observer, config, names)
    at = draw(count, len(a) or count, config.seed)
    images, seen = _observe(a, at, observer)
    scores = side.score(seen, a.labels(at))
    floors, floor_sizes = side.floors()
    protocol: dict[str, str | int | float] = {
        "images": a.name,
        "num_images": count,
        "reference": b.name,
        "reference_images": size_b,
        "features": network.name,
        "feature_dim": network.dim,
        "feature_weights": network.digest[:16],
        "resize": network.resize,
        "quantization": "uint8",
        "floor": f"{floor_sizes[0]} against {floor_sizes[1]} images of the reference's source",
        "evaluation_seed": config.seed,
        "interval": "95 %, over draws of the images, the reference fixed",
    }
    if any(images.run is not None and images.class_names for images in (a, b)):
        alike = any(images.classes is not None for images in (a, b))
        protocol["labels"] = "frequencies of a draw of real images" if alike else "equal numbers"
    if b.parts:
        protocol["reference_digest"] = " ".join(part.digest[:16] for part in b.parts)
    protocol |= {f"reference_{key}": value for key, value in origin(b, size_b).items()}
    copies, told = _copies(a, b, images, seen, observer) if config.memorization else (None, [])
    results = Results(
        scores.scores,
        floors.scores,
        protocol,
        classes=scores.classes,
        class_floors=floors.classes,
        copies=copies,
    )
    notes = _warnings(a, b, results, network, (count, size_b), floor_sizes, config)
    return _stamped(replace(results, warnings=(*notes, *told)), origin(a, count))


def _stamped(results: Results, of_images: Mapping[str, str | int]) -> Results:
    """All scores with the digest of the protocol, which then also tells how images were drawn.

    That is no part of the digest: models and samplers are what is compared.
    """
    protocol = results.protocol
    return replace(
        results,
        scores=stamped(results.scores, protocol),
        floors=stamped(results.floors, protocol),
        classes=stamped_classes(results.classes, protocol),
        class_floors=stamped_classes(results.class_floors, protocol),
        protocol={**protocol, **of_images},
    )


def _observe(
    images: ImageSet, at: Int64[np.ndarray, " _"], observer: Observer
) -> tuple[UInt8Images | Pictures, Observed]:
    """The images at positions `at`, and what was seen of them."""
    if images.run is None:
        parts = images.rows(at)
        return Pictures(parts), observer.parts(parts)
    kept = storage((len(at), *images.image_shape), torch.uint8)

    def batches() -> Iterator[UInt8Images]:
        done = 0
        for batch in images.generate(len(at)):
            kept[done : done + len(batch)] = batch
            done += len(batch)
            yield batch

    return kept, observer.images(batches(), len(at))


def _copies(
    a: ImageSet,
    b: ImageSet,
    images: UInt8Images | Pictures,
    seen: Observed,
    observer: Observer,
) -> tuple[Copies | None, list[str]]:
    """Copies of the training images of the reference, where it has any; else why they are not."""
    try:
        splits = training_images(b)
    except SfumatoError as error:
        return None, [f"no training images of {b.name} to look for copies of: {error}"]
    if splits is None:
        return None, []
    if splits.train.image_shape != a.image_shape:
        return None, ["copies of training images are looked for among images of their size alone"]
    say(
        f"looking for copies of {len(splits.train):,} training images; "
        "evaluation.memorization=false leaves this out"
    )
    return find_copies(images, seen.features, splits, observer), []


def _with_classifier(a: ImageSet, b: ImageSet, config: EvaluationConfig, cache: Path) -> Results:
    """By the data set's own classifier, trained on images that neither side shows."""
    if b.other is None or b.other.num_classes == 0:
        raise ConfigError(
            f"the features 'classifier' need a reference with labels and two splits, and {b.name} "
            f"has not both; name {b.name}:held-out, or choose others with --features "
            "efficientnet-lite0"
        )
    reference, train = b.parts[0], b.other
    if reference.split == "train":
        raise ConfigError(
            f"the features 'classifier' are learned from {b.name}, which cannot be the reference "
            "too; name the held-out images, or choose others with --features efficientnet-lite0"
        )
    most = min(len(reference), int(0.7 * len(train)), len(a) or len(reference))
    chosen = config.num_images or most
    if len(a) and chosen > len(a):
        raise _too_many(a, chosen)
    evaluator = Evaluator(Splits(train, reference), replace(config, num_images=chosen), cache)
    labels = classes = None
    if a.run is not None:
        labels = evaluator.labels if a.class_names == train.class_names else None  # drawn alike
        images = list(a.generate(chosen, labels))
    else:
        at = draw(chosen, len(a), config.seed)
        classes = a.labels(at) if a.class_names == train.class_names else None
        images = [part.take(rows) for part, rows in a.rows(at)]
    results = evaluator.results(torch.cat(images), labels, classes)
    protocol = {**results.protocol, "images": a.name}
    if labels is None:
        del protocol["labels"]
    learned = _learned(a, train.subset(evaluator.folds.features))
    told = (*_sameness(a, b), *learned, *_uneven_classes(results))
    results = replace(results, protocol=protocol, warnings=(*told, *results.warnings))
    return _stamped(results, origin(a, chosen))


def _count(a: ImageSet, b: ImageSet, wanted: int | None) -> int:
    """How many images of `a` are scored."""
    if wanted is not None and len(a) and wanted > len(a):
        raise _too_many(a, wanted)
    count = wanted or len(a) or min(len(b) or SAMPLES, SAMPLES)
    if count < 4:
        raise MetricError(f"{a.name} has {count} images; a score needs at least 4")
    return count


def _too_many(a: ImageSet, wanted: int) -> ConfigError:
    return ConfigError(
        f"evaluation.num_images is {wanted}, but {a.name} has {len(a)} images; ask for at most "
        "that many, or leave it out"
    )


def _warnings(
    a: ImageSet,
    b: ImageSet,
    results: Results,
    network: FeatureNetwork,
    sizes: tuple[int, int],
    floor_sizes: tuple[int, int],
    config: EvaluationConfig,
) -> list[str]:
    """What a reader should know of these numbers."""
    told = _sameness(a, b)
    if a.image_shape != b.image_shape:
        told.append(
            f"images of {_pixels(a)} are compared with images of {_pixels(b)} pixels; what "
            "resizing does to them is part of the score"
        )
    if floor_sizes[0] < sizes[0] or floor_sizes[1] < sizes[1]:
        told.append(
            f"the floor is of {floor_sizes[0]} against {floor_sizes[1]} images, for lack of more "
            f"that are disjoint, the score of {sizes[0]} against {sizes[1]}: at equal numbers it "
            "would be lower, and the excess larger"
        )
    told += _uneven_classes(results)
    if "frechet_infinity" in set(config.metrics) - set(results.scores):
        told.append(
            f"the Fréchet distance at N → ∞ of {network.dim} features needs at least "
            f"{4 * network.dim} images a side"
        )
    return told + too_few(results.scores, results.floors)


def _uneven_classes(results: Results) -> list[str]:
    """Where the floor of a class is of another number of images than its score."""
    counts = {
        name: (floors[key].n, score.n)
        for name, own in results.classes.items()
        if (floors := results.class_floors.get(name, {}))
        for key, score in own.items()
        if key in floors and key != "label_accuracy"
    }
    uneven = [
        f"{name} {floor} for {score}"
        for name, (floor, score) in counts.items()
        if abs(floor - score) >= UNEVEN * score
    ]
    if not uneven:
        return []
    shown = ", ".join(uneven[:TOLD]) + ", ..." * (len(uneven) > TOLD)
    return [
        f"floors of classes are of other numbers of images than the scores ({shown}), and a "
        "distance is larger the fewer there are: compare a class with its floor at equal numbers"
    ]


def _sameness(a: ImageSet, b: ImageSet) -> list[str]:
    if common := _common(a, b):
        return [
            f"{common} images are the same on both sides, which lowers every distance; a fair "
            "comparison has none in common"
        ]
    return []


def _learned(a: ImageSet, learned: Dataset) -> list[str]:
    if common := _common(a, ImageSet("", (learned,))):
        return [
            f"the features were learned from {common} of the images of {a.name}, which are drawn "
            "unlike those of the floor for it; name others, or choose --features "
            "efficientnet-lite0"
        ]
    return []


def _common(a: ImageSet, b: ImageSet) -> int:
    sides = [np.concatenate([as_items(p.hashes) for p in s.parts]) for s in (a, b) if s.parts]
    return len(np.intersect1d(sides[0], sides[1])) if len(sides) == 2 else 0


def _pixels(images: ImageSet) -> str:
    channels, height, width = images.image_shape
    return f"{channels} x {height} x {width}"


def has_classes(b: ImageSet) -> bool:
    """Whether a classifier can be learned from the other split of the reference."""
    return b.other is not None and b.other.num_classes > 0 and b.parts[0].split == "held-out"
