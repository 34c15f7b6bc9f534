"""The Fréchet distance during training, and what else the same samples show."""

from dataclasses import replace
from typing import NamedTuple

import torch

from sfumato.core import distributed
from sfumato.core.generative_model import GenerativeModel
from sfumato.core.images import Labels, UInt8Images
from sfumato.data.dataset import Splits
from sfumato.evaluation.image_sources import ArrayImages
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.evaluation.reference import HeldOut
from sfumato.evaluation.score import score
from sfumato.speed.plan import Plan
from sfumato.speed.sampling import sample_images

BATCH = 256


class OnlineScore(NamedTuple):
    """What the samples of a model in training show.

    Args:
        scores: a row of the log.
        class_shares: of the samples, as the judge of labels sees them; empty where there are no
            two classes.
        duplicates, real_duplicates: the shares of samples, and of as many held-out images, that
            have a twin among the others.
    """

    scores: dict[str, float]
    class_shares: dict[str, float]
    duplicates: float
    real_duplicates: float

    @property
    def row(self) -> dict[str, float]:
        """All of it for the log."""
        shares = {f"class_share/{name}": share for name, share in self.class_shares.items()}
        return {**self.scores, **shares, "duplicates": self.duplicates}


class OnlineScores:
    """Draws the samples that a protocol asks for, shared among the processes, and scores them.

    Image i is drawn from seed i, as `sfumato evaluate` does.
    Raises:
        SfumatoError: the data do not allow the protocol.
    """

    def __init__(self, splits: Splits, config: EvaluationConfig, plan: Plan) -> None:
        self._plan = plan
        self._reference: HeldOut | None = None
        self.labels, self.num_images = distributed.on_main(lambda: self._prepare(splits, config))

    def _prepare(self, splits: Splits, config: EvaluationConfig) -> tuple[Labels | None, int]:
        self._reference = HeldOut(splits, replace(config, memorization=False))
        return self._reference.labels, self._reference.num_images

    def look(self, model: GenerativeModel) -> OnlineScore:
        """The Fréchet distance of the model's samples and its floor, their classes and twins.

        The same in all processes. The model is in evaluation mode and holds the weights to sample
        with.
        """
        labels = self.labels if model.num_classes else None
        images = sample_shared(model, labels, self.num_images, self._plan)

        def measure() -> OnlineScore:
            reference = self._reference
            assert reference is not None
            found = score(ArrayImages(images, labels), reference, by_class=False)
            assert found.features is not None
            counts = found.class_histogram if len(reference.class_names) > 1 else {}
            return OnlineScore(
                {
                    "frechet_distance": found.scores["frechet_distance"].value,
                    "frechet_floor": found.floors["frechet_distance"].value,
                },
                {name: count / len(images) for name, count in counts.items()},
                *reference.twins(found.features),
            )

        return distributed.on_main(measure)


def sample_shared(
    model: GenerativeModel, labels: Labels | None, number: int, plan: Plan
) -> UInt8Images:
    """Images of seeds 0 to number - 1, each process drawing its part; whole in all of them."""
    if distributed.world_size() == 1:
        return sample_images(model, labels, range(number), plan=plan)
    whole = -(-number // distributed.world_size()) * distributed.world_size()
    own = distributed.local_slice(whole)  # equal parts: sharded models need them
    padded = None if labels is None else labels[torch.arange(whole) % number]
    # The same batch size on every rank, so that collectives of sharded models match.
    part = sample_images(
        model, None if padded is None else padded[own], range(own.start, own.stop), BATCH, plan
    )
    images = torch.zeros(whole, *part.shape[1:], dtype=torch.uint8)
    images[own] = part
    return distributed.all_reduce_sum(images)[:number]
