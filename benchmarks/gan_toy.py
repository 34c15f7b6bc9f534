"""GANs on mixtures of Gaussians in the plane: which modes do they find?

    python benchmarks/gan_toy.py --seeds 5 --output docs/results/gan-toy

The ring of 8 Gaussians and the 5 x 5 grid, with the package's losses, phases and trainer step.
A mode counts when at least 1 % of the samples lie within 3 standard deviations of its centre.
Writes results.json, table.md and figure.png, and the points of each run to ARM-SEED.npz. Finished
runs are not repeated.

Source of the ring: Metz et al. 2017 (Unrolled GAN), appendix A.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sfumato.core.files import write_json
from sfumato.core.images import Batch
from sfumato.core.noise import TrainingNoise, generator
from sfumato.explore.plots import save_figure
from sfumato.gan.gan_model import GAN, GANConfig
from sfumato.gan.losses import MinimaxLoss, WassersteinLoss
from sfumato.gan.regularizers import GradientPenalty
from sfumato.gan.unrolled import Unrolling
from sfumato.networks.mlp_gan import MLPGANConfig
from sfumato.training.averages import ExponentialAverage, weights_in_use
from sfumato.training.optimizer import Adam, CosineRate
from sfumato.training.trainer import Trainer
from sfumato.training.training_config import TrainingConfig

SAMPLES = 10_000
BATCH = 128
STD = 0.02
RADIUS = 2.0


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one standard deviation, equally likely."""

    name: str
    centres: Tensor
    std: float = STD

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Points of the mixture, [count, 2]."""
        which = torch.randint(len(self.centres), (count,), generator=random)
        return self.centres[which] + self.std * torch.randn(count, 2, generator=random)

    def covered(self, points: Tensor) -> tuple[int, float]:
        """The modes with at least 1 % of the points within 3 std, and the share within any."""
        distance, nearest = torch.cdist(points, self.centres).min(dim=1)
        near = distance < 3 * self.std
        counts = torch.bincount(nearest[near], minlength=len(self.centres))
        return int((counts >= 0.01 * len(points)).sum()), float(near.double().mean())


def ring() -> Mixture:
    """8 Gaussians on a circle."""
    angles = torch.arange(8) * (2 * math.pi / 8)
    return Mixture("ring", RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1))


def grid() -> Mixture:
    """25 Gaussians on a square grid from -2 to 2."""
    line = torch.linspace(-RADIUS, RADIUS, 5)
    return Mixture("grid", torch.cartesian_prod(line, line))


NETWORK = MLPGANConfig(
    latent_dim=32, width=128, layers=2, discriminator_layers=2, activation="tanh"
)
"""tanh, as the authors of Unrolled GAN have it in their published example."""
CRITIC = MLPGANConfig(latent_dim=16, width=128, layers=3, discriminator_layers=3)
STEPS = 3_000
"""Of the discriminator, on the ring."""
CRITIC_STEPS = 20_000
"""Two for each of the generator: with five it has too few of its own to settle on 25 points."""
CRITIC_BATCH = 256
FAST, SLOW = 4e-3, 1e-3
"""Learning rates of generator and discriminator: the generator outruns it. They stay, as the
authors' do: with rates that fall to nothing the plain GAN settles, too."""
AVERAGE = ExponentialAverage(half_life_images=100 * BATCH)
"""Of the generator's weights on the ring, which keep moving around the modes they have found."""
BETAS = (0.5, 0.999)
FRAMES = 5


@dataclass(frozen=True)
class Arm:
    """A GAN on a mixture."""

    mixture: Mixture
    model: GANConfig
    training: TrainingConfig


def arms(steps: int | None = None) -> dict[str, Arm]:
    """What is compared; `steps` of the discriminator replaces the usual number."""

    def ring_gan(k: int) -> GANConfig:
        ahead = Unrolling(steps=k, learning_rate=SLOW, betas=BETAS) if k else None
        return GANConfig(
            network=NETWORK, loss=MinimaxLoss(), discriminator_rate=SLOW / FAST, unrolled=ahead
        )

    of_ring = TrainingConfig(
        batch_size=BATCH,
        budget_steps=steps or STEPS,
        learning_rate=FAST,
        optimizer=Adam(betas=BETAS),
        averages=(AVERAGE,),
    )
    critic = GANConfig(
        network=CRITIC,
        loss=WassersteinLoss(),
        regularizers=(GradientPenalty(weight=0.1),),
        discriminator_steps=2,
    )
    wgan = TrainingConfig(
        batch_size=CRITIC_BATCH,
        budget_steps=steps or CRITIC_STEPS,
        decay_images=(steps or CRITIC_STEPS) * CRITIC_BATCH,
        learning_rate=1e-3,
        rate=CosineRate(),
        optimizer=Adam(betas=(0.5, 0.9)),
        averages=(),
    )
    return {
        "plain": Arm(ring(), ring_gan(0), of_ring),
        "unrolled-5": Arm(ring(), ring_gan(5), of_ring),
        "wgan-gp": Arm(ring(), critic, wgan),
        "wgan-gp-grid": Arm(grid(), critic, wgan),
    }


def measure(arm: Arm, seed: int) -> dict[str, Any]:
    """One run: modes covered, share of good samples, seconds, samples at FRAMES moments."""
    config = arm.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gan = arm.model.build((2, 1, 1), 0)
    trainer = Trainer(config, gan, torch.device("cpu"))
    assert config.budget_steps is not None
    random, frames = generator("mixture", seed), []
    began = time.perf_counter()
    for step in range(config.budget_steps):
        points = arm.mixture.draw(config.batch_size, random)
        trainer.step(Batch(points.view(-1, 2, 1, 1), None, trainer.state.images))
        if (step + 1) % max(1, config.budget_steps // FRAMES) == 0:
            with weights_in_use(trainer.averages):
                frames.append(samples(gan, 1000, seed))
    seconds = time.perf_counter() - began
    with weights_in_use(trainer.averages):
        modes, good = arm.mixture.covered(samples(gan, SAMPLES, seed))
    return {"seed": seed, "modes": modes, "good": good, "seconds": seconds, "frames": frames}


@torch.no_grad()
def samples(gan: GAN, count: int, seed: int) -> Tensor:
    """Generated points, [count, 2]."""
    z = TrainingNoise("samples", seed, global_batch=count).normal(gan.latent_dim)
    return gan.generator(z).flatten(1)


def kept(arm: Arm, seed: int, path: Path) -> dict[str, Any]:
    """The measurements of this run and of earlier ones."""
    if not path.exists():
        run = measure(arm, seed)
        np.savez(path, **{**run, "frames": torch.stack(run["frames"]).numpy()})
    with np.load(path) as file:
        values = {name: file[name].item() for name in ("seed", "modes", "good", "seconds")}
        return {**values, "frames": list(torch.from_numpy(file["frames"]))}


def draw(found: dict[str, list[dict[str, Any]]], every: dict[str, Arm], path: Path) -> None:
    """One row per arm: the course of the first seed, then the last samples of the others."""
    columns = FRAMES + max(len(runs) for runs in found.values()) - 1
    figure = Figure(figsize=(1.6 * columns, 1.7 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), columns, squeeze=False)
    for row, (name, runs) in enumerate(found.items()):
        panels = [(f"{100 * (i + 1) // FRAMES} %", p) for i, p in enumerate(runs[0]["frames"])]
        panels[-1] = (f"seed {runs[0]['seed']}: {runs[0]['modes']}", panels[-1][1])
        panels += [(f"seed {r['seed']}: {r['modes']}", r["frames"][-1]) for r in runs[1:]]
        for column in range(columns):
            axis = axes[row][column]
            axis.set(xticks=[], yticks=[], xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
            if column < len(panels):
                title, points = panels[column]
                centres = every[name].mixture.centres
                axis.scatter(*centres.T, s=30, facecolors="none", edgecolors="0.7", lw=0.7)
                axis.scatter(*points.T, s=1.5, alpha=0.4, lw=0)
                axis.set_title(title, fontsize=8)
            else:
                axis.set_axis_off()
        axes[row][0].set_ylabel(name, fontsize=9)
    save_figure(figure, path)


def table(found: dict[str, list[dict[str, Any]]], every: dict[str, Arm]) -> str:
    """Modes of each seed, and the mean share of samples within 3 std of a mode."""
    lines = [
        "| GAN | modes found, per seed | of | good samples | seconds |",
        "|---|---|--:|--:|--:|",
    ]
    for name, runs in found.items():
        modes = ", ".join(str(run["modes"]) for run in runs)
        good = sum(run["good"] for run in runs) / len(runs)
        seconds = sum(run["seconds"] for run in runs) / len(runs)
        total = len(every[name].mixture.centres)
        lines.append(f"| {name} | {modes} | {total} | {good:.0%} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train all arms with all seeds and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="training seeds (default: 5)")
    parser.add_argument("--arms", nargs="+", default=None, help="some of them (default: all)")
    parser.add_argument("--steps", type=int, default=None, help="instead of the usual numbers")
    parser.add_argument("--output", type=Path, default=Path("gan-toy"), metavar="DIRECTORY")
    options = parser.parse_args(arguments)
    every = arms(options.steps)
    found: dict[str, list[dict[str, Any]]] = {}
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.arms or every:
        for seed in range(options.seeds):
            run = kept(every[name], seed, options.output / f"{name}-{seed}.npz")
            found.setdefault(name, []).append(run)
            print(name, {key: value for key, value in run.items() if key != "frames"}, flush=True)
    draw(found, every, options.output / "figure.png")
    (options.output / "table.md").write_text(table(found, every))
    plain = {
        n: [{k: v for k, v in r.items() if k != "frames"} for r in f] for n, f in found.items()
    }
    write_json(options.output / "results.json", {"samples": SAMPLES, "runs": plain})


if __name__ == "__main__":
    main()
