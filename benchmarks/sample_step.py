"""One evaluation of other projects' networks and of Sfumato's, as in sampling, in turns.

python benchmarks/sample_step.py --only unet-28
python benchmarks/sample_step.py --group tried
"""

from collections.abc import Callable

import torch
from peers import Contender, Pair, compare, parameters
from torch import Tensor

from sfumato.speed.plan import Plan, apply_plan, computing


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
    forward = torch.compile(network.forward, dynamic=False) if plan.compile else network
    # Weights can be made constants of a compiled network under no_grad alone.
    context = torch.no_grad if plan.compile else torch.inference_mode

    def evaluate() -> None:
        with context(), computing(x.device, plan):
            forward(x, t.float())

    return evaluate, parameters(network)


def build(pair: Pair, contender: Contender) -> tuple[Callable[[], object], int]:
    """The peer, or ours under a plan."""
    plan = contender.plan
    x, t = torch.randn(pair.batch, *pair.shape), torch.randint(0, 1000, (pair.batch,))
    return peer_evaluation(pair, x, t) if plan is None else our_evaluation(pair, x, t, plan)


if __name__ == "__main__":
    compare(__file__, __doc__, build, can_freeze=True)
