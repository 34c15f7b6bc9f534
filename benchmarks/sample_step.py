"""One evaluation of other projects' networks and of Sfumato's, as in sampling, interleaved.

python benchmarks/sample_step.py --only unet-28
"""

import argparse
from collections.abc import Callable

import torch
from peers import PAIRS, PLANS, Pair, parameters, row, save, timed
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[pair.name for pair in PAIRS])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for pair in PAIRS:
        if options.only not in (None, pair.name):
            continue
        torch.manual_seed(0)
        x, t = torch.randn(pair.batch, *pair.shape), torch.randint(0, 1000, (pair.batch,))
        peer, size = peer_evaluation(pair, x, t)
        contenders, own = {"peer": peer}, 0
        for plan in PLANS:
            contenders[str(plan)], own = our_evaluation(pair, x, t, plan)
        save("sample_step", [row(pair, timed(contenders, options.rounds), (size, own))])


if __name__ == "__main__":
    main()
