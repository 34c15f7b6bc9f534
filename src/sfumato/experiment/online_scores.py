"""The Fréchet distance while training, and what else the same samples show."""

from typing import NamedTuple

import torch

from sfumato.core import distributed
from sfumato.core.generative_model import GenerativeModel
from sfumato.core.images import Labels, UInt8Images
from sfumato.data.dataset import Splits
from sfumato.evaluation.evaluator import EvaluationConfig, Evaluator
from sfumato.evaluation.scores import class_histogram
from sfumato.speed.plan import Plan
from sfumato.speed.sampling import sample_images

BATCH = 256


class Look(NamedTuple):
    """What samples look like.

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


class Quality:
    """Draws the samples that a protocol asks for, shared among the processes, and scores them.

    Image i is drawn from seed i, as `sfumato evaluate` does.
    Raises:
        SfumatoError: the data do not allow the protocol.
    """

    def __init__(self, splits: Splits, config: EvaluationConfig, plan: Plan) -> None:
        self._plan = plan
        self._evaluator: Evaluator | None = None
        self.labels, self.num_images = distributed.on_main(lambda: self._prepare(splits, config))

    def _prepare(self, splits: Splits, config: EvaluationConfig) -> tuple[Labels | None, int]:
        self._evaluator = Evaluator(splits, config)
        return self._evaluator.labels, self._evaluator.num_images

    def look(self, model: GenerativeModel) -> Look:
        """The Fréchet distance of the model's samples and its floor, their classes and twins.

        The same in all processes. The model is in evaluation mode and holds the weights to sample
        with.
        """
        labels = self.labels if model.num_classes else None
        images = sample_shared(model, labels, self.num_images, self._plan)

        def look() -> Look:
            evaluator = self._evaluator
            assert evaluator is not None
            seen = evaluator.observe(images)
            found = evaluator.score_seen(seen, labels)["frechet_distance"]
            floor = evaluator.floors["frechet_distance"]
            names = evaluator.splits.train.class_names
            counts = class_histogram(seen, names) if len(names) > 1 else {}
            return Look(
                {"frechet_distance": found.value, "frechet_floor": floor.value},
                {name: count / len(images) for name, count in counts.items()},
                *evaluator.twins(seen),
            )

        return distributed.on_main(look)


def sample_shared(
    model: GenerativeModel, labels: Labels | None, number: int, plan: Plan
) -> UInt8Images:
    """Images of seeds 0 to number - 1, each process drawing its part; whole in all of them."""
    if distributed.world_size() == 1:
        return sample_images(model, labels, range(number), plan=plan)
    whole = -(-number // distributed.world_size()) * distributed.world_size()
    own = distributed.local_slice(whole)  # equal parts, so that sharded models keep in step
    padded = None if labels is None else labels[torch.arange(whole) % number]
    # All with the same number at once: sharded models keep in step.
    part = sample_images(
        model, None if padded is None else padded[own], range(own.start, own.stop), BATCH, plan
    )
    images = torch.zeros(whole, *part.shape[1:], dtype=torch.uint8)
    images[own] = part
    return distributed.all_reduce_sum(images)[:number]
