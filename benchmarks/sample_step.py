"""One evaluation of other projects' networks and of Sfumato's, as in sampling, in turns.

python benchmarks/sample_step.py --only unet-28
"""

from collections.abc import Callable

import torch
from peers import Pair, compare, parameters
from torch import Tensor

from sfumato.run.performance import Plan, apply_plan, computing


def peer_evaluation(pair: Pair, x: Tensor, t: Tensor) -> tuple[Callable[[], object], int]:
    """As a sampling script does it."""
    network = pair.peer().eval()

    def evaluate() -> None:
        with torch.no_grad():
            network(x, t)

    return evaluate, parameters(network)


def our_evaluation(
    pair: Pair, x: Tensor, t: Tensor, plan: Plan
) -> tuple[Callable[[], object], int]:
    """As `sample_batches` does it."""
    network = pair.ours.build(pair.shape, 0).eval().requires_grad_(False)
    apply_plan(network, plan)

    def evaluate() -> None:
        with torch.inference_mode(), computing(x.device, plan):
            network(x, t.float())

    return evaluate, parameters(network)


def contender(pair: Pair, plan: Plan | None) -> tuple[Callable[[], object], int]:
    """The peer, or ours under a plan."""
    x, t = torch.randn(pair.batch, *pair.shape), torch.randint(0, 1000, (pair.batch,))
    return peer_evaluation(pair, x, t) if plan is None else our_evaluation(pair, x, t, plan)


if __name__ == "__main__":
    compare(__file__, __doc__, contender)
