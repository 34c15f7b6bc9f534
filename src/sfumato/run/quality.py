"""The Fréchet distance while training."""

import torch
from torch import nn

from sfumato.core import distributed
from sfumato.core.images import Labels, UInt8Images
from sfumato.core.model import GenerativeModel
from sfumato.data.dataset import Splits
from sfumato.run.evaluate import EvaluationConfig, Evaluator
from sfumato.run.sample import sample_images

BATCH = 256


class Quality:
    """Draws the samples that a protocol asks for, shared among the processes, and scores them.

    Image i is drawn from seed i, as `sfumato evaluate` does.
    Raises:
        SfumatoError: the data do not allow the protocol.
    """

    def __init__(self, splits: Splits, config: EvaluationConfig) -> None:
        self._evaluator: Evaluator | None = None
        self.labels, self.num_images = distributed.on_main(lambda: self._prepare(splits, config))

    def _prepare(self, splits: Splits, config: EvaluationConfig) -> tuple[Labels | None, int]:
        self._evaluator = Evaluator(splits, config)
        return self._evaluator.labels, self._evaluator.num_images

    def scores(self, model: nn.Module) -> dict[str, float]:
        """The Fréchet distance of the model's samples and its floor; the same in all processes.

        The model is in evaluation mode and holds the weights to sample with.
        """
        assert isinstance(model, GenerativeModel)
        labels = self.labels if model.num_classes else None
        images = sample_shared(model, labels, self.num_images)

        def score() -> dict[str, float]:
            assert self._evaluator is not None
            found = self._evaluator.score(images, labels)["frechet_distance"]
            floor = self._evaluator.floors["frechet_distance"]
            return {"frechet_distance": found.value, "frechet_floor": floor.value}

        return distributed.on_main(score)


def sample_shared(model: nn.Module, labels: Labels | None, number: int) -> UInt8Images:
    """Images of seeds 0 to number - 1, each process drawing its part; whole in all of them."""
    if distributed.world_size() == 1:
        return sample_images(model, labels, range(number), BATCH)
    whole = -(-number // distributed.world_size()) * distributed.world_size()
    own = distributed.local_slice(whole)  # equal parts, so that sharded models keep in step
    padded = None if labels is None else labels[torch.arange(whole) % number]
    part = sample_images(
        model, None if padded is None else padded[own], range(own.start, own.stop), BATCH
    )
    images = torch.zeros(whole, *part.shape[1:], dtype=torch.uint8)
    images[own] = part
    return distributed.all_reduce_sum(images)[:number]
