"""Real images prepared for scoring: their features, the floors they give, and the protocol.

The floor is the same metrics between real images, at the same N.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sfumato.core.errors import ConfigError, SfumatoError
from sfumato.core.files import cache_folder
from sfumato.core.images import Labels, UInt8Images
from sfumato.core.noise import derive_seed
from sfumato.data.cache import make_folder
from sfumato.data.dataset import Splits
from sfumato.data.source import as_items
from sfumato.evaluation.feature_cache import FeatureCache, Pictures
from sfumato.evaluation.image_sources import (
    SAMPLES,
    At,
    GeneratedImages,
    ImageSource,
    StoredImages,
    draw,
    shuffled,
    with_real_frequencies,
)
from sfumato.evaluation.judge import Folds, classifier_features, make_folds, train_classifier
from sfumato.evaluation.protocol import (
    ClassifierFeatures,
    EvaluationConfig,
    build_protocol,
    stamped,
    stamped_class,
    stamped_classes,
)
from sfumato.metrics import LABEL_ACCURACY, Metric
from sfumato.metrics.estimate import Estimate, MetricError, share_of
from sfumato.metrics.features import (
    FeatureNetwork,
    ImageFeatures,
    tensors_digest,
    weight_digest,
)
from sfumato.metrics.frechet import FrechetReference
from sfumato.metrics.memorization import duplicates, suspicious_distance
from sfumato.networks.classifier import Classifier, ClassifierConfig

JUDGE = ClassifierConfig(width=20)
FEATURE_IMAGES = 75_000
"""A feature network is trained for fewer images than a judge: it needs less accuracy."""
LEAST_OF_A_CLASS = 10
"""Classes with fewer images, on either side, get no distance of their own."""
REFERENCE_SEEDS = 1_000_000
"""First seed of a model that is the reference: the two sides must not share noise."""

ScoresByKey = dict[str, Estimate]
ScoresByClass = dict[str, ScoresByKey]


@dataclass(frozen=True, eq=False)
class Seen:
    """Images that are scored: themselves, their features, and the class of each, if known."""

    images: UInt8Images | Pictures
    features: ImageFeatures
    classes: Labels | None


class Reference:
    """What images are scored against; prepared once, used for many sets of images.

    Attributes:
        config: the protocol's settings.
        cache: computes features.
        num_images: N, the images of a set that is scored.
        class_names: of the classes that are scored one by one; () if there are none.
        protocol: what the scores mean.
        given: the reference, if it was given as a set of images and not as a data set.
    """

    config: EvaluationConfig
    cache: FeatureCache
    num_images: int
    class_names: tuple[str, ...]
    protocol: dict[str, str | int | float]
    given: ImageSource | None = None
    names_both = True
    """Whether the protocol names both sides, as that of two given sets does."""

    @property
    def network(self) -> FeatureNetwork:
        """The features."""
        return self.cache.network

    @property
    def real(self) -> ImageFeatures:
        """The features of the real images."""
        raise NotImplementedError

    @property
    def floors(self) -> ScoresByKey:
        """The metrics between real images, with the digest of the protocol."""
        raise NotImplementedError

    @property
    def class_floors(self) -> ScoresByClass:
        """The floors class by class."""
        raise NotImplementedError

    def observe(self, samples: ImageSource) -> Seen:
        """One pass over N of the samples.

        Raises:
            MetricError, ConfigError: too few of them, or of another shape than the protocol's.
        """
        raise NotImplementedError

    def by_class(self, fake: ImageFeatures, classes: Labels | None) -> ScoresByClass:
        """The scores of each class, without the digest of a protocol."""
        raise NotImplementedError

    def stamped_by_class(
        self, classes: ScoresByClass, protocol: Mapping[str, str | int | float]
    ) -> ScoresByClass:
        """The scores of each class with the digest of the protocol of that class."""
        return stamped_classes(classes, protocol)

    def protocol_of(self, samples: ImageSource, seen: Seen) -> dict[str, str | int | float]:
        """The protocol of the scores of a set of images."""
        return self.protocol

    def originals(self, samples: ImageSource) -> tuple[Splits | None, list[str]]:
        """The training images that samples may be copies of; or why there are none, as notes."""
        raise NotImplementedError

    @property
    def floor_sizes(self) -> tuple[int, int]:
        """The numbers of images on the two sides of the floor."""
        raise NotImplementedError

    def learned_from(self) -> StoredImages | None:
        """The images the features were learned from, if they are known."""
        return None


def prepare(
    reference: "Splits | ImageSource | FrechetReference | Reference",
    config: EvaluationConfig,
    samples: ImageSource,
    cache: Path | None = None,
) -> Reference:
    """Prepare a reference for scoring `samples`.

    Args:
        reference: a data set (its held-out images are the reference, its training images give the
            floor), any images, or known mean and covariance of features; a prepared reference is
            returned as it is.
        config: how to score.
        samples: what will be scored. Their number and classes decide those of the floor.
        cache: folder for classifiers and features of stored images; None: Sfumato's cache.
    Raises:
        ConfigError, MetricError: too few images, or features that are unavailable.
    """
    if isinstance(reference, Reference):
        return reference
    if isinstance(reference, Splits):
        return HeldOut(reference, config, cache)
    if isinstance(config.features, ClassifierFeatures):
        return HeldOut.of_sets(reference, samples, config, cache)
    return GivenImages(reference, samples, config, cache)


def scores_of(
    metrics: Sequence[Metric], fake: ImageFeatures, real: ImageFeatures
) -> dict[str, Estimate]:
    """The metrics that both sides allow. Raises MetricError for too few images."""
    return {m.key: m(fake, real) for m in metrics if m.lacks(fake, real) is None}


def scores_by_class(
    metrics: Sequence[Metric],
    fake: tuple[ImageFeatures, Int64[Tensor, " N"]],
    real: tuple[ImageFeatures, Int64[Tensor, " M"]],
    names: tuple[str, ...],
) -> ScoresByClass:
    """The metrics of each class on its own.

    A distance has the bias of the few images of a class: compare it with the floor of the same
    class only. Classes with very few images, on either side, have their label accuracy alone.

    Args:
        metrics: to compute.
        fake, real: images of all classes, and the class of each.
        names: of the classes.
    """
    found: ScoresByClass = {}
    for number, name in enumerate(names):
        rows, real_rows = fake[1] == number, real[1] == number
        ours, theirs = fake[0].subset(rows, number), real[0].subset(real_rows, number)
        enough = min(len(ours), len(theirs)) >= LEAST_OF_A_CLASS
        chosen = [m for m in metrics if len(ours) and (enough or m is LABEL_ACCURACY)]
        draws = torch.nonzero(rows).flatten()
        scores = scores_of(chosen, ours, theirs)
        if scores:
            found[name] = {key: _of_draws(score, draws) for key, score in scores.items()}
    return found


def _of_draws(score: Estimate, draws: Int64[Tensor, " k"]) -> Estimate:
    """A score that records which of all images it is of, so that only the same are paired."""
    if score.left_out is None:
        return score
    return replace(score, left_out=replace(score.left_out, draws=draws))


class HeldOut(Reference):
    """The held-out images of a data set; the floor is of training images against them.

    The judge of labels, and the features if they are the classifier's, are learned from training
    images that the floor does not use.

    Args:
        splits: the data.
        config: how to score.
        cache: folder for classifiers and features of real images; None: Sfumato's cache.
    Raises:
        ConfigError: N is too large for the data, or classifier features of data without labels.
        MetricError: a feature network that is unavailable.
    """

    names_both = False

    def __init__(
        self,
        splits: Splits,
        config: EvaluationConfig = EvaluationConfig(),
        cache: Path | None = None,
    ) -> None:
        train, held_out = splits.train, splits.held_out
        if train.num_classes == 0 and isinstance(config.features, ClassifierFeatures):
            raise ConfigError(
                f"data set {train.name!r} has no labels, and the features 'classifier' are learned "
                "from labels; set evaluation.features.kind to 'efficientnet-lite0', 'inception' "
                "or 'timm'"
            )
        self.config = config
        self.splits = splits
        self.class_names = train.class_names
        self.folds: Folds = make_folds(splits, config.num_images, config.seed)
        self.num_images = len(self.folds.floor)
        self._folder = cache or cache_folder()
        self._judge: Classifier | None = None
        if train.num_classes:
            self._judge = self._classifier("judge", self.folds.judge, JUDGE, 150_000)
        network = self._feature_network()
        self.cache = FeatureCache(network, self._judge, self._folder, config.batch_size)
        self._held_out = self.cache.dataset(held_out)
        self.labels: Labels | None = None
        """The classes to sample: N labels in the frequencies of the floor's real images."""
        if train.labels is not None:
            self.labels = torch.from_numpy(train.labels[self.folds.floor])
        self._floor = replace(
            self.cache.dataset(train, self.folds.floor), labels=self.labels, strata=self.labels
        )
        self.protocol = self._protocol()
        floors = scores_of(config.wanted, self._floor, self.real)
        if "label_accuracy" in floors:
            assert self._recognized is not None  # the floor's images are those of the judge
            floors["label_accuracy"] = share_of(self._recognized)
        self._floors = stamped(floors, self.protocol)

    @staticmethod
    def of_sets(
        reference: "ImageSource | FrechetReference",
        samples: ImageSource,
        config: EvaluationConfig,
        cache: Path | None,
    ) -> "HeldOut":
        """For two given sets: classifier features, learned from the reference's other split."""
        name = getattr(reference, "name", "the reference")
        splits = reference.splits if isinstance(reference, StoredImages) else None
        if splits is None or splits.train.num_classes == 0:
            raise ConfigError(
                f"the features 'classifier' need a reference with labels and two splits, and "
                f"{name} has not both; name {name}:held-out, or choose others with --features "
                "efficientnet-lite0"
            )
        assert isinstance(reference, StoredImages)
        if reference.parts[0].split == "train":
            raise ConfigError(
                f"the features 'classifier' are learned from {name}, which cannot be the reference "
                "too; name the held-out images, or choose others with --features "
                "efficientnet-lite0"
            )
        held_out, train = len(splits.held_out), len(splits.train)
        count = config.num_images
        if count is None:
            count = min(held_out, int(0.7 * train), samples.count or held_out)
        require(samples, count)
        found = HeldOut(splits, replace(config, num_images=count), cache)
        found.given, found.names_both = reference, True
        return found

    @property
    def real(self) -> ImageFeatures:
        """The features of the held-out images."""
        return self._held_out

    @property
    def floors(self) -> ScoresByKey:
        """The same metrics between training images of the floor and the held-out images."""
        return self._floors

    @property
    def floor_sizes(self) -> tuple[int, int]:
        """The numbers of images on the two sides of the floor."""
        return self.num_images, len(self._held_out)

    def _protocol(self) -> dict[str, str | int | float]:
        held_out = self.splits.held_out
        sets: dict[str, str | int | float] = {
            "num_images": self.num_images,
            "reference": f"{held_out.name} {held_out.split}",
            "reference_images": len(held_out),
            "reference_digest": held_out.digest[:16],
            "training_digest": self.splits.train.digest[:16],
        }
        conditions: dict[str, str | int | float] = {
            "quantization": "uint8",
            "evaluation_seed": self.config.seed,
            "interval": "95 %, over draws of generated images",
        }
        if self._judge is not None:
            conditions["judge_weights"] = weight_digest(self._judge)[:16]
            conditions["labels"] = "frequencies of the floor's real images"
        return build_protocol(sets, self.network, conditions)

    def protocol_of(self, samples: ImageSource, seen: Seen) -> dict[str, str | int | float]:
        """The protocol of the scores of a set of images."""
        if not self.names_both:
            return self.protocol
        protocol = {**self.protocol, "images": samples.name}
        if seen.features.labels is None:
            protocol.pop("labels", None)
        return protocol

    def observe(self, samples: ImageSource) -> Seen:
        """One pass over the samples, which are kept in memory: N is at most the held-out images.

        A model samples the classes `labels`. Raises MetricError for another number or shape of
        images than the protocol's.
        """
        if samples.image_shape != self.splits.train.image_shape:
            raise MetricError(
                f"images of shape {list(samples.image_shape)} cannot be scored against data of "
                f"shape {list(self.splits.train.image_shape)}; generate them at that size"
            )
        at, given = np.arange(self.num_images), isinstance(samples, StoredImages)
        known = samples.class_names == self.class_names or not (self.names_both or given)
        if isinstance(samples, GeneratedImages):
            samples = replace(samples, classes=self.labels) if known else samples
        elif given and samples.count:
            at = draw(self.num_images, samples.count, self.config.seed)
        elif samples.count != self.num_images:
            raise MetricError(
                f"{samples.count} images were given and the protocol is for N = "
                f"{self.num_images}; scores at different N cannot be compared: generate one image "
                "for each of the reference's labels"
            )
        classes = samples.labels(at) if known else None
        images = torch.cat(list(samples.batches(at, self.config.batch_size)))
        asked = None if given else classes  # the model was asked for these
        features = replace(self.cache.tensor(images), labels=asked, strata=asked)
        return Seen(images, features, classes)

    def by_class(self, fake: ImageFeatures, classes: Labels | None) -> ScoresByClass:
        """The scores of each class, without the digest of a protocol."""
        labels = self.splits.held_out.labels
        if classes is None or labels is None:
            return {}
        real = self._held_out, torch.from_numpy(labels)
        return scores_by_class(self.config.wanted, (fake, classes), real, self.class_names)

    @cached_property
    def class_floors(self) -> ScoresByClass:
        """The floors class by class: the floor's images of a class and the held-out of it."""
        labels = self.splits.held_out.labels
        if self.labels is None or self._recognized is None or labels is None:
            return {}
        found = self.by_class(self._floor, self.labels)
        found = {name: self.of_class(name, own) for name, own in found.items()}
        for number, name in enumerate(self.class_names):
            own = self._recognized[torch.from_numpy(labels) == number]
            if "label_accuracy" in found.get(name, {}) and len(own):
                digest = found[name]["label_accuracy"].protocol
                found[name]["label_accuracy"] = replace(share_of(own), protocol=digest)
        return found

    def stamped_by_class(
        self, classes: ScoresByClass, protocol: Mapping[str, str | int | float]
    ) -> ScoresByClass:
        """The scores of each class with the digest of the protocol of that class."""
        if self.names_both:
            return stamped_classes(classes, protocol)
        return {name: self.of_class(name, own) for name, own in classes.items()}

    def of_class(self, name: str, scores: Mapping[str, Estimate]) -> dict[str, Estimate]:
        """Scores of the images of one class, stamped with the protocol of that class.

        It names the real images of the class and nothing of the others, so that models of one
        class and models of several compare by it.
        """
        held_out = self.splits.held_out
        assert held_out.labels is not None
        own = held_out.hashes[held_out.labels == held_out.class_names.index(name)]
        digest = hashlib.sha256(np.sort(as_items(own)).tobytes()).hexdigest()[:16]
        return stamped_class(scores, self.protocol, digest)

    def originals(self, samples: ImageSource) -> tuple[Splits | None, list[str]]:
        """The training images that samples may be copies of."""
        return (None if self.config.memorization is False else self.splits), []

    def learned_from(self) -> StoredImages | None:
        """The images the features were learned from."""
        if not self.names_both:
            return None
        return StoredImages("", (self.splits.train.subset(self.folds.features),))

    def twins(self, features: ImageFeatures) -> tuple[float, float]:
        """The share of images with a twin among the others: of generated and of held-out ones."""
        real = self._held_out.vectors[: self.num_images]
        return (
            duplicates(features.vectors, self._suspicious).value,
            duplicates(real, self._suspicious).value,
        )

    @cached_property
    def _suspicious(self) -> float:
        """The distance in features below which two images count as the same."""
        training = self.cache.dataset(self.splits.train).vectors
        return suspicious_distance(self._held_out.vectors[: self.num_images], training)

    @cached_property
    def _recognized(self) -> Bool[Tensor, " M"] | None:
        """Which held-out images the judge recognizes; None without labels."""
        labels, predicted = self.splits.held_out.labels, self._held_out.predicted
        if labels is None or predicted is None:
            return None
        return predicted == torch.from_numpy(labels)

    def _classifier(
        self, name: str, fold: Int64[np.ndarray, " k"], config: ClassifierConfig, images: int
    ) -> Classifier:
        seed = derive_seed(name, self.config.seed)
        folder = self._folder / "classifiers"
        return train_classifier(self.splits.train, fold, config, seed, folder, images)

    def _feature_network(self) -> FeatureNetwork:
        if not isinstance(self.config.features, ClassifierFeatures):
            return self.config.features.build(make_folder(self._folder / "weights"))
        network = self.config.features.network()
        trained = self._classifier("features", self.folds.features, network, FEATURE_IMAGES)
        return FeatureNetwork(
            name="classifier",
            digest=weight_digest(trained),
            dim=network.num_features,
            resize="none",
            compute=lambda images: classifier_features(trained, images),
        )


class GivenImages(Reference):
    """Any images, or known moments; the floor is of more images from the same source.

    These are the other split if there is one, more samples of a model, or else a part of the
    reference against the rest. Known moments give no floor.

    Args:
        given: the reference.
        samples: what will be scored.
        config: how to score.
        cache: folder for features of stored images; None: Sfumato's cache.
    Raises:
        ConfigError, MetricError: too few images, or features that are unavailable.
    """

    def __init__(
        self,
        given: ImageSource | FrechetReference,
        samples: ImageSource,
        config: EvaluationConfig,
        cache: Path | None,
    ) -> None:
        assert not isinstance(config.features, ClassifierFeatures)
        self.config = config
        folder = cache or cache_folder()
        network = config.features.build(make_folder(folder / "weights"))
        self.cache = FeatureCache(network, None, folder, config.batch_size)
        self.known = given if isinstance(given, FrechetReference) else None
        self.given = None if isinstance(given, FrechetReference) else given
        self.num_images = number_of(samples, size_of(given), config.num_images)
        self.size = size_of(given) or 0
        names: tuple[str, ...] = ()
        if not isinstance(given, FrechetReference):
            self.given = with_real_frequencies(given, samples, config.seed)
            if isinstance(self.given, GeneratedImages):
                self.given = replace(self.given, first_seed=REFERENCE_SEEDS)
                self.size = number_of(self.given, samples.count, config.num_images)
            names = self.given.class_names
        self.class_names = names if samples.class_names == names else ()
        self._scores, self._class_scores = self._floor_scores()
        self.protocol = self._protocol(self._aligned(samples))

    @cached_property
    def real(self) -> ImageFeatures:
        """The features of the reference, or their moments if these suffice."""
        return self._features(np.arange(self.size))

    @property
    def floors(self) -> ScoresByKey:
        """The same metrics between two sets of real images."""
        return stamped(self._scores, self.protocol)

    @property
    def class_floors(self) -> ScoresByClass:
        """The floors class by class."""
        return stamped_classes(self._class_scores, self.protocol)

    @cached_property
    def floor_sizes(self) -> tuple[int, int]:
        """The numbers of images on the two sides of the floor."""
        if self.given is None:
            return 0, 0
        if isinstance(self.given, GeneratedImages):
            return self.num_images, self.size
        if other := getattr(self.given, "other", None):
            return min(self.num_images, len(other)), self.size
        half = min(self.num_images, self.size // 2)
        return half, self.size - half

    def _floor_scores(self) -> tuple[ScoresByKey, ScoresByClass]:
        """Scores of `floor_sizes[0]` images of the reference's source against the others."""
        images, count, at = self.given, self.floor_sizes[0], np.arange(self.size)
        if images is None:
            return {}, {}
        if isinstance(images, GeneratedImages):
            rows = np.arange(self.size, self.size + count)
            fake, classes = self._generated(rows), images.labels(rows)
        elif isinstance(images, StoredImages) and images.other is not None:
            rows = draw(count, len(images.other), self.config.seed)
            labels = images.other.labels
            classes = None if labels is None else torch.from_numpy(labels[rows])
            fake = self.cache.dataset(images.other, rows)
        else:
            rows, at = np.split(shuffled(self.size, self.config.seed), [count])
            fake, classes = self.cache.observe(images, rows)[1], images.labels(rows)
        real = self.real if len(at) == self.size else self._features(at)
        by_class = self._by_class(fake, classes, real, at)
        return scores_of(self.config.wanted, fake, real), by_class

    def _features(self, at: At) -> ImageFeatures:
        """Those of the images of the reference at positions `at`; their moments if they suffice."""
        if self.given is None:
            return ImageFeatures(moments=self.known)
        if isinstance(self.given, GeneratedImages):
            return self._generated(at)
        streamed = not any("features" in metric.needs for metric in self.config.wanted)
        if isinstance(self.given, StoredImages) and streamed and not self.class_names:
            return self.cache.moments(self.given.rows(at))
        return self.cache.observe(self.given, at)[1]

    def _generated(self, at: At) -> ImageFeatures:
        start = int(at[0])  # a model's images are taken one after another
        return ImageFeatures(self._all_generated[start : start + len(at)], head=self.network.head)

    @cached_property
    def _all_generated(self) -> Float[Tensor, "N d"]:
        """Features of a model's images: those of the reference, then the floor's."""
        assert self.given is not None
        at = np.arange(self.size + self.num_images)
        batches = self.given.batches(at, self.config.batch_size)
        return self.cache.stream(batches, len(at)).vectors

    def _protocol(self, samples: ImageSource) -> dict[str, str | int | float]:
        images = self.given
        sets: dict[str, str | int | float] = {
            "images": samples.name,
            "num_images": self.num_images,
            "reference": "known moments" if images is None else images.name,
            "reference_images": self.size,
        }
        floor, rest = self.floor_sizes
        conditions: dict[str, str | int | float] = {
            "quantization": "uint8",
            "floor": f"{floor} against {rest} images of the reference's source",
            "evaluation_seed": self.config.seed,
            "interval": "95 %, over draws of the images, the reference fixed",
        }
        models = [i for i in (samples, images) if isinstance(i, GeneratedImages)]
        if any(model.class_names for model in models):
            drawn = any(model.classes is not None for model in models)
            conditions["labels"] = (
                "frequencies of a draw of real images" if drawn else "equal numbers"
            )
        if self.known is not None:
            conditions["reference_digest"] = tensors_digest(
                {"mean": self.known.mean, "factor": self.known.factor}
            )[:16]
        elif images is not None and images.digest:
            conditions["reference_digest"] = images.digest
        if isinstance(images, GeneratedImages):
            drawn_as = images.provenance(images.seeds(self.size))
            conditions |= {f"reference_{key}": value for key, value in drawn_as.items()}
        return build_protocol(sets, self.network, conditions)

    def protocol_of(self, samples: ImageSource, seen: Seen) -> dict[str, str | int | float]:
        """The protocol of the scores of a set of images."""
        return {**self.protocol, "images": samples.name}

    def _aligned(self, samples: ImageSource) -> ImageSource:
        """A model's samples with the label frequencies of the reference."""
        if self.given is None:
            return samples
        return with_real_frequencies(samples, self.given, self.config.seed)

    def observe(self, samples: ImageSource) -> Seen:
        """One pass over `num_images` of the samples. Raises ConfigError for too few."""
        count = samples.count
        require(samples, self.num_images)
        at = draw(self.num_images, count or self.num_images, self.config.seed)
        samples = self._aligned(samples)
        images, features = self.cache.observe(samples, at)
        return Seen(images, features, samples.labels(at))

    def by_class(self, fake: ImageFeatures, classes: Labels | None) -> ScoresByClass:
        """The scores of each class, without the digest of a protocol."""
        return self._by_class(fake, classes, self.real, np.arange(self.size))

    def _by_class(
        self, fake: ImageFeatures, classes: Labels | None, real: ImageFeatures, at: At
    ) -> ScoresByClass:
        labels = None if self.given is None else self.given.labels(at)
        if not self.class_names or classes is None or labels is None:
            return {}
        wanted = self.config.wanted
        return scores_by_class(wanted, (fake, classes), (real, labels), self.class_names)

    def originals(self, samples: ImageSource) -> tuple[Splits | None, list[str]]:
        """The reference's training images, if it has any and the protocol asks for copies."""
        splits = None
        try:
            if not self.config.memorization:
                return None, []
            if isinstance(self.given, GeneratedImages):
                splits = self.given.training()
            elif isinstance(self.given, StoredImages):
                splits = self.given.splits
        except SfumatoError as error:
            name = "" if self.given is None else self.given.name
            return None, [f"no training images of {name} to look for copies of: {error}"]
        if splits is not None and splits.train.image_shape != samples.image_shape:
            return None, ["copies are looked for only among images of the training images' size"]
        return splits, []


def size_of(images: ImageSource | FrechetReference) -> int | None:
    """The number of images; None: unbounded."""
    return images.n if isinstance(images, FrechetReference) else images.count


def require(images: ImageSource, wanted: int | None) -> None:
    """Raise ConfigError for fewer images than are wanted."""
    if wanted is not None and images.count is not None and wanted > images.count:
        raise ConfigError(
            f"evaluation.num_images is {wanted}, but {images.name} has {images.count} images; ask "
            "for at most that many, or leave it out"
        )


def number_of(images: ImageSource, others: int | None, wanted: int | None) -> int:
    """How many images are scored, against `others` images (None: unbounded)."""
    require(images, wanted)
    count = wanted or images.count or min(others or SAMPLES, SAMPLES)
    if count < 4:
        raise MetricError(f"{images.name} has {count} images; a score needs at least 4")
    return count
