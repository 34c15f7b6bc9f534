"""The references of a study: one for all arms with the same held-out images."""

from collections.abc import Callable
from dataclasses import replace

from sfumato.core.errors import ConfigError
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Splits
from sfumato.evaluation.judge import make_folds
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.evaluation.reference import HeldOut
from sfumato.study.study import Study


class Evaluators:
    """Prepares references on demand and keeps them.

    An arm with the held-out images of the first arm shares its reference and floor, even if it
    trains on other images (`data.fraction` among the factors, say). An arm that holds out other
    images, such as a single class, has its own reference and is compared with the others by class
    only. An arm of one class is scored with the number of images that the first arm draws of it.
    """

    def __init__(self, study: Study, log: Callable[[str], None] = lambda message: None) -> None:
        self._study = study
        self._first = next(iter(study.arms))
        self._log = log
        self._data: dict[DataConfig, Splits] = {}
        self._by_digest: dict[str, HeldOut] = {}

    def splits(self, arm: str) -> Splits:
        """The images of an arm."""
        config = self._study.arms[arm].data
        if config not in self._data:
            self._data[config] = load(replace(config, augment=type(config.augment)()))
        return self._data[config]

    @property
    def main(self) -> HeldOut:
        """The reference of the first arm: the report shows its floor."""
        return self.of(self._first)

    def shares_reference(self, arm: str) -> bool:
        """Whether an arm has the reference of the first arm."""
        return self.splits(arm).held_out.digest == self.splits(self._first).held_out.digest

    def of(self, arm: str) -> HeldOut:
        """The reference of an arm.

        Raises:
            ConfigError: the arm holds out other images and the study does not compare by class,
                or its features differ from those of the first arm.
            MetricError: unavailable features.
        """
        study, first = self._study, self._first
        if arm != first and self.shares_reference(arm):
            return self.of(first)
        if arm != first and not study.measure.by_class:
            raise ConfigError(
                f"study {study.name!r}: arms {arm!r} and {first!r} hold out different images, so "
                "their scores are not comparable; hold out the same images, or compare class by "
                "class with measure.by_class = true"
            )
        splits = self.splits(arm)
        if splits.held_out.digest not in self._by_digest:
            self._log("preparing the evaluation: classifiers and the floor")
            found = HeldOut(splits, self.protocol(arm))
            if arm != first and found.network.digest != self.of(first).network.digest:
                raise ConfigError(
                    f"study {study.name!r}: the features of arms {arm!r} and {first!r} are learned "
                    "from different images, so their distances are not comparable; take features "
                    "that are learned from neither, such as "
                    "evaluation.features.kind = 'efficientnet-lite0'"
                )
            self._by_digest[splits.held_out.digest] = found
        return self._by_digest[splits.held_out.digest]

    def protocol(self, arm: str) -> EvaluationConfig:
        """The protocol of an arm; for an arm of one class, N is the first arm's of that class.

        Raises:
            ConfigError: the arm holds out fewer images than that.
        """
        study, first = self._study, self._first
        config = study.arms[arm].evaluation
        if not study.measure.by_class or self.shares_reference(arm):
            return config
        splits, train = self.splits(arm), self.splits(first).train
        names, known = splits.train.class_names, train.class_names
        if len(names) != 1 or names[0] not in known:
            return config
        assert train.labels is not None
        folds = make_folds(self.splits(first), config.num_images, config.seed)
        count = int((train.labels[folds.floor] == known.index(names[0])).sum())
        if count > len(splits.held_out):
            fitting = int(0.9 * len(folds.floor) * len(splits.held_out) / count)
            raise ConfigError(
                f"study {study.name!r}: arm {arm!r} holds out {len(splits.held_out)} images of "
                f"{names[0]!r}, fewer than the {count} that {first!r} draws; set "
                f"evaluation.num_images to less, for example {fitting}, or hold out more"
            )
        return replace(config, num_images=count)
