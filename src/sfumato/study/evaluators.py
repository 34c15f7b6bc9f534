"""The evaluators of a study: one for all arms that are held against the same images."""

from collections.abc import Callable
from dataclasses import replace

from sfumato.core.errors import ConfigError
from sfumato.data.catalogue import load
from sfumato.data.config import DataConfig
from sfumato.data.dataset import Splits
from sfumato.run.evaluate import Evaluator
from sfumato.run.protocol import EvaluationConfig
from sfumato.study.study import Study


class Evaluators:
    """Prepares an evaluator when an arm needs it, and keeps it for the arms alike.

    Arms may be trained on other images than the first arm (`data.fraction` among the factors, say)
    and are still scored against its held-out images, beside its floor, provided that they hold out
    the same. Arms that hold out other images, such as one class of the others', are scored against
    their own and compared with the others by class alone; those of one class with as many images
    as the first arm draws of it.
    """

    def __init__(self, study: Study, tell: Callable[[str], None] = lambda message: None) -> None:
        self._study = study
        self._tell = tell
        self._data: dict[DataConfig, Splits] = {}
        self._by_digest: dict[str, Evaluator] = {}

    def splits(self, arm: str) -> Splits:
        """The images of an arm."""
        config = self._study.arms[arm].data
        if config not in self._data:
            self._data[config] = load(replace(config, augment=type(config.augment)()))
        return self._data[config]

    @property
    def main(self) -> Evaluator:
        """That of the first arm: its floor is the report's."""
        return self.of(next(iter(self._study.arms)))

    def shares_reference(self, arm: str) -> bool:
        """Whether an arm is scored by the main evaluator."""
        first = next(iter(self._study.arms))
        return self.splits(arm).held_out.digest == self.splits(first).held_out.digest

    def of(self, arm: str) -> Evaluator:
        """The evaluator of an arm.

        Raises:
            ConfigError: the arm holds out other images and the study does not compare by class;
                or its features are others than those of the first arm.
            MetricError: features that cannot be had.
        """
        study = self._study
        first = next(iter(study.arms))
        if arm != first and self.shares_reference(arm):
            return self.of(first)
        if arm != first and not study.measure.by_class:
            raise ConfigError(
                f"study {study.name!r}: arm {arm!r} is held against other images than {first!r}, "
                "so that their scores cannot be compared; hold out the same images, or compare "
                "class by class with measure.by_class = true"
            )
        splits = self.splits(arm)
        if splits.held_out.digest not in self._by_digest:
            self._tell("preparing the evaluation: classifiers and the floor")
            found = Evaluator(splits, self._protocol(arm))
            if arm != first and found.network.digest != self.of(first).network.digest:
                raise ConfigError(
                    f"study {study.name!r}: the features of arm {arm!r} are learned from other "
                    f"images than those of {first!r}, so that their distances cannot be compared; "
                    "take features that are learned from neither, such as "
                    "evaluation.features.kind = 'efficientnet-lite0'"
                )
            self._by_digest[splits.held_out.digest] = found
        return self._by_digest[splits.held_out.digest]

    def _protocol(self, arm: str) -> EvaluationConfig:
        """That of the study; for an arm of one class N is what the first arm draws of it."""
        config = self._study.arms[arm].evaluation
        if arm == next(iter(self._study.arms)):
            return config
        names, labels = self.splits(arm).train.class_names, self.main.labels
        known = self.main.splits.train.class_names
        if labels is None or len(names) != 1 or names[0] not in known:
            return config
        count = int((labels == known.index(names[0])).sum())
        return replace(config, num_images=min(count, len(self.splits(arm).held_out)))
