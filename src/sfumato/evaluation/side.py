"""The reference of a distance between two sets of images, and the floors that it gives."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64

from sfumato.core.images import Labels
from sfumato.data.dataset import Dataset
from sfumato.evaluation.feature_cache import Observed, Observer
from sfumato.evaluation.image_sources import ImageSet, draw, shuffled
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.evaluation.score_store import Scores
from sfumato.evaluation.scores import (
    MOMENTS_SUFFICE,
    Labelled,
    Reference,
    scores_by_class,
    scores_of,
)

At = Int64[np.ndarray, " _"]
"""Positions of images."""


@dataclass(frozen=True)
class Side:
    """The side that images are scored against.

    Args:
        images: the reference.
        size: how many of them are used.
        count: how many images are scored, and the floor is of, if there are so many.
        observer: sees the features.
        config: the protocol.
        class_names: the classes of both sides; () where they are not the same, or not known.
    """

    images: ImageSet
    size: int
    count: int
    observer: Observer
    config: EvaluationConfig
    class_names: tuple[str, ...]

    def score(self, seen: Observed, labels: Labels | None, at: At | None = None) -> Scores:
        """Images against the reference (those at positions `at`), overall and by class.

        Args:
            seen, labels: the images and their classes.
        """
        at = np.arange(self.size) if at is None else at
        metrics, network = self.config.metrics, self.observer.network
        reference = self._reference(at)
        scores = scores_of(metrics, seen, reference, network, None)
        real_labels = self.images.labels(at)
        if not self.class_names or labels is None or real_labels is None:
            return Scores(scores, {})
        assert reference.features is not None
        real = Labelled(Observed(reference.features, None), real_labels)
        ours = Labelled(seen, labels)
        return Scores(scores, scores_by_class(metrics, ours, real, network, self.class_names))

    def _reference(self, at: At) -> Reference:
        streamed = not self.class_names and set(self.config.metrics) <= MOMENTS_SUFFICE
        if self.images.run is None and streamed:
            return Reference(self.observer.reference(self.images.rows(at)), None)
        return Reference.of(self._seen(at).features)

    def _seen(self, at: At) -> Observed:
        if self.images.run is None:
            return self.observer.parts(self.images.rows(at))
        start = int(at[0])  # a run's images are taken one after another
        return Observed(self._generated.features[start : start + len(at)], None)

    @cached_property
    def _generated(self) -> Observed:
        """A run's images: those of the reference, then the floor's, drawn together."""
        number = self.size + self.count
        return self.observer.images(self.images.generate(number), number)

    def floors(self) -> tuple[Scores, tuple[int, int]]:
        """The floors, and the numbers of images on their two sides."""
        if self.images.run is not None:
            rows = np.arange(self.size, self.size + self.count)
            found = self.score(self._seen(rows), self.images.labels(rows))
            return found, (len(rows), self.size)
        if self.images.other is not None:
            other: Dataset = self.images.other
            rows = draw(min(self.count, len(other)), len(other), self.config.seed)
            labels = None if other.labels is None else torch.from_numpy(other.labels[rows])
            found = self.score(self.observer.parts([(other, rows)]), labels)
            return found, (len(rows), self.size)
        half = min(self.count, self.size // 2)
        rows, rest = np.split(shuffled(self.size, self.config.seed), [half])
        found = self.score(self._seen(rows), self.images.labels(rows), rest)
        return found, (len(rows), len(rest))
