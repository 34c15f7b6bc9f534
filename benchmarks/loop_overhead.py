"""What the training loop costs beside forward, backward and optimizer.

Two loops train the same model on the same batches, in turns, so that a busy machine slows both:
the trainer's with all it does between steps (noise streams, loading, averages, log, noise levels,
TensorBoard), and the barest loop there is, on a batch that is already there.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from sfumato.core.device import default_device
from sfumato.core.model import GenerativeModel
from sfumato.core.noise import TrainingNoise
from sfumato.data.catalogue import load
from sfumato.run import directory as run_directory
from sfumato.run.experiment import Experiment, load_experiment
from sfumato.run.position import SavedState
from sfumato.run.session import Session
from sfumato.run.stop import StopRequest
from sfumato.run.train import build_model, with_decay_fixed
from sfumato.run.trainer import Trainer

STEPS = 5
"""In a turn."""


def bare_loop(experiment: Experiment) -> Callable[[], None]:
    """A turn of forward, backward and optimizer, nothing else."""
    config = experiment.training
    data = load(experiment.data).train
    trainer = Trainer(config, build_model(experiment, data), default_device())
    assert isinstance(trainer.model, GenerativeModel)
    (phase,) = trainer.model.phases()
    (optimizer,) = trainer.optimizers.values()
    batch = trainer.prepare(*next(data.batches(config.batch_size, 0)))
    noise = TrainingNoise("bare", global_batch=config.batch_size)

    def turn() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss = phase.loss(batch, noise).mean()
            loss.backward()
            if config.clip_gradient is not None:
                torch.nn.utils.clip_grad_norm_(phase.module.parameters(), config.clip_gradient)
            optimizer.step()
        float(loss.detach())  # wait for the device

    return turn


def whole_loop(experiment: Experiment, run_dir: Path, stack: ExitStack) -> Callable[[], None]:
    """A turn of the session's loop: each call extends the budget by STEPS."""
    splits = load(experiment.data)
    config = experiment.training
    trainer = Trainer(config, build_model(experiment, splits.train), default_device())
    stack.enter_context(run_directory.locked(run_dir))
    session = Session(run_dir, experiment, trainer, splits, print)
    stack.enter_context(session.monitor)
    session.monitor.begin_at(SavedState(images=0, step=0, seconds=0.0))

    def turn() -> None:
        steps = trainer.position.step + STEPS
        trainer.config = replace(config, budget_images=None, budget_steps=steps)
        session._train(StopRequest())
        trainer.means.means()  # wait for the device

    return turn


def seconds(turn: Callable[[], None]) -> float:
    began = time.process_time() if not torch.cuda.is_available() else time.perf_counter()
    turn()
    ended = time.process_time() if not torch.cuda.is_available() else time.perf_counter()
    return (ended - began) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="fashion-mnist-ddpm", help="a recipe of one phase")
    parser.add_argument("--turns", type=int, default=8)
    options = parser.parse_args()
    experiment = load_experiment(options.recipe, [])
    budget = {"budget_images": 10**6, "budget_steps": None, "budget_seconds": None}
    size = experiment.training.batch_size
    # Pictures and checkpoints cost what the config asks for. A row of the log in every turn.
    rows = {"sample_images": 0, "checkpoint_images": 10**9, "log_images": STEPS * size}
    training = replace(experiment.training, **budget, **rows, precision="float32")
    experiment = with_decay_fixed(replace(experiment, training=training))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        whole = whole_loop(experiment, Path(folder), stack)
        bare = bare_loop(experiment)
        bare(), whole()  # warm up
        pairs = [(seconds(bare), seconds(whole)) for _ in range(options.turns)]
    ratios = sorted(b / a - 1 for a, b in pairs)
    print(f"bare loop   {1e3 * statistics.median(a for a, _ in pairs):.1f} ms a step")
    print(f"whole loop  {1e3 * statistics.median(b for _, b in pairs):.1f} ms a step")
    print(f"overhead    {100 * statistics.median(ratios):.1f} % (median of {len(ratios)} turns, "
          f"{100 * ratios[0]:.1f} to {100 * ratios[-1]:.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
