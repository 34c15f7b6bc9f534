"""What the training loop costs beside forward, backward and optimizer: on a CPU.

A clock runs inside the losses, `backward`, the clipping and the optimizer of a real loop; what
is left of its time is the overhead: loading, noise streams, averages, losses by noise level, a row
of the log and of TensorBoard in every turn. A busy machine delays both parts equally, so only the
median over turns counts.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sfumato.core.config import to_mapping
from sfumato.data.catalogue import load
from sfumato.experiment.experiment import Experiment, build_model, load_experiment
from sfumato.experiment.training_run import with_decay_fixed
from sfumato.runs import directory as run_directory
from sfumato.training.loop import TrainingLoop
from sfumato.training.trainer import Trainer

STEPS = 5
"""In a turn."""


class Clock:
    """Adds up the time spent inside functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


class Turn:
    """A StopRequest that comes after STEPS steps."""

    def __init__(self) -> None:
        self._asked = -1

    @property
    def requested(self) -> bool:
        """Asked once before each step."""
        self._asked += 1
        return self._asked >= STEPS


def timed_loop(
    experiment: Experiment, run_dir: Path, stack: ExitStack, clock: Clock
) -> TrainingLoop:
    """A training loop whose forward, backward and optimizer run under the clock."""
    splits = load(experiment.data)
    model = build_model(experiment, splits.train)
    trainer = Trainer(experiment.training, model, torch.device("cpu"), experiment.data.augment)
    trainer.phases = [
        replace(
            phase,
            loss=clock.around(phase.loss),
            noisy_losses=phase.noisy_losses and clock.around(phase.noisy_losses),
        )
        for phase in trainer.phases
    ]
    torch.Tensor.backward = clock.around(torch.Tensor.backward)  # type: ignore[method-assign]
    torch.nn.utils.clip_grad_norm_ = clock.around(torch.nn.utils.clip_grad_norm_)
    for optimizer in trainer.optimizers.values():
        optimizer.step = clock.around(optimizer.step)  # type: ignore[method-assign]
        optimizer.zero_grad = clock.around(optimizer.zero_grad)  # type: ignore[method-assign]
    stack.enter_context(run_directory.locked(run_dir))
    loop = TrainingLoop(run_dir, to_mapping(experiment), trainer, splits, None, print)
    stack.enter_context(loop.run_log)
    loop.run_log.rewind(trainer.state)
    return loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="fashion-mnist-ddpm")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    experiment = load_experiment(options.recipe, [])
    size = experiment.training.batch_size
    budget = {"budget_images": 10**9, "budget_steps": None, "budget_seconds": None}
    # Pictures and checkpoints cost what the config demands.
    rows = {"sample_images": 0, "checkpoint_images": 10**9, "log_images": STEPS * size}
    training = replace(experiment.training, **budget, **rows, precision=options.precision)
    experiment = with_decay_fixed(replace(experiment, training=training))
    shares, clock = [], Clock()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        loop = timed_loop(experiment, folder, stack, clock)
        for _ in range(1 + options.turns):
            before, began = clock.seconds, time.perf_counter()
            loop.train(Turn())  # type: ignore[arg-type]
            inside = clock.seconds - before
            shares.append((time.perf_counter() - began) / inside - 1)
            print(f"{1e3 * inside / STEPS:.1f} ms per step, overhead {100 * shares[-1]:.2f} %")
    print(f"overhead: {100 * statistics.median(shares[1:]):.2f} % (median; the first warms up)")


if __name__ == "__main__":
    main()
