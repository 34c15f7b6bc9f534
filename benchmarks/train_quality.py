"""Whether a fast plan trains as well as float32: the same seeds, data and noise, the same steps.

    python benchmarks/train_quality.py --recipe digits-ddpm

Writes docs/results/speed/train_quality-RECIPE.json. It compares the loss of the averaged weights on
held-out images, with the same noise for all. The spread over seeds puts a difference into scale.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import RESULTS, machine

from sfumato.core.images import Batch, from_uint8
from sfumato.core.noise import TrainingNoise
from sfumato.data.catalogue import load
from sfumato.data.dataset import Splits
from sfumato.experiment.experiment import Experiment, build_model, load_experiment, with_plan
from sfumato.speed.plan import REFERENCE, Plan, apply_plan
from sfumato.training.averages import weights_in_use
from sfumato.training.trainer import Trainer

FAST = Plan(precision="bfloat16", layout="channels_last", kernels=True)
HELD_OUT = 256


def held_out_loss(trainer: Trainer, splits: Splits, draws: int = 4) -> float:
    """The mean loss in float32, whatever the plan of training."""
    model = trainer.model
    some = np.arange(min(HELD_OUT, len(splits.held_out)))
    images = from_uint8(splits.held_out.take(some))
    labels = splits.held_out.labels
    batch = Batch(images, None if labels is None else torch.from_numpy(labels[some]))
    model.eval()
    apply_plan(model, REFERENCE)
    losses = []
    with torch.no_grad(), weights_in_use(trainer.averages):
        for draw in range(draws):
            noise = TrainingNoise(
                0, draw, "held out", global_batch=len(some), which=slice(0, len(some))
            )
            losses.append(trainer.phases[0].loss(batch, noise).mean().item())
    return statistics.mean(losses)


def trained(experiment: Experiment, splits: Splits, plan: Plan, steps: int) -> float:
    """The held-out loss after some steps under a plan."""
    experiment = with_plan(experiment, plan)
    config = experiment.training
    trainer = Trainer(config, build_model(experiment, splits.train), torch.device("cpu"))
    batches = splits.train.batches(config.batch_size, config.seed)
    for _ in range(steps):
        trainer.step(trainer.prepare(*next(batches)))
    return held_out_loss(trainer, splits)


def main() -> None:
    """Train by both plans with every seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as of `sfumato train`")
    parser.add_argument("--recipe", default="digits-ddpm")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    experiment = load_experiment(options.recipe, options.overrides)
    splits = load(experiment.data)
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        budget = {"budget_images": None, "budget_seconds": None, "budget_steps": options.steps}
        training = replace(experiment.training, seed=seed, **budget)
        one = replace(experiment, training=training)
        losses = {str(p): trained(one, splits, p, options.steps) for p in (REFERENCE, FAST)}
        rows.append({"seed": seed, "loss": losses})
        print(f"seed {seed}: " + "  ".join(f"{k} {v:.5f}" for k, v in losses.items()), flush=True)
    reference = [r["loss"][str(REFERENCE)] for r in rows]
    gaps = [r["loss"][str(FAST)] - r["loss"][str(REFERENCE)] for r in rows]
    content = {
        "machine": machine(),
        "recipe": options.recipe,
        "overrides": options.overrides,
        "steps": options.steps,
        "rows": rows,
        "mean_difference": statistics.mean(gaps),
        "spread_over_seeds": statistics.stdev(reference),
    }
    print(f"difference {content['mean_difference']:+.5f}, ", end="")
    print(f"spread of float32 over seeds {content['spread_over_seeds']:.5f}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"train_quality-{Path(options.recipe).stem}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
