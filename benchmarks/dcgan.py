"""Our DCGAN against the script of PyTorch's DCGAN tutorial, at equal seconds on the same images.

    python benchmarks/dcgan.py cifar10 --classes cat --seconds 120 --output dcgan

The peer is the unchanged tutorial: networks, initialization, binary cross-entropy, Adam, batch
of 128, float32; at 32 pixels with one block fewer than at its 64. Ours is the DCGAN of the package
with its usual care: smoothed labels, decaying noise, smaller batches, averaged weights, bfloat16.
Seconds are those of the process on a single thread, so that other work on the machine has no
effect. Both are scored by the same evaluator. Writes results.json, table.md and a picture each.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.core.files import write_json
from sfumato.core.images import UInt8Images, from_uint8, to_uint8
from sfumato.core.noise import Noise
from sfumato.core.pictures import image_grid
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Dataset, Splits
from sfumato.evaluation.image_sources import ArrayImages
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.evaluation.reference import HeldOut
from sfumato.evaluation.score import score
from sfumato.gan.gan_model import GANConfig
from sfumato.gan.losses import NonSaturatingLoss
from sfumato.metrics.pretrained import EfficientNetFeatures
from sfumato.networks.dcgan import DCGANConfig
from sfumato.training.averages import ExponentialAverage, weights_in_use
from sfumato.training.optimizer import Adam
from sfumato.training.trainer import Trainer
from sfumato.training.training_config import TrainingConfig

Z, WIDTH, BATCH, RATE = 100, 64, 128, 2e-4
"""The constants of the tutorial."""
GRID = 64


def initialize(module: nn.Module) -> None:
    """The tutorial's weights_init."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def tutorial_networks(channels: int, size: int) -> tuple[nn.Module, nn.Module]:
    """The tutorial's generator and discriminator for 64 (or 32) pixels."""
    blocks = {32: 2, 64: 3}[size]
    width = WIDTH * 2**blocks
    up: list[nn.Module] = [nn.ConvTranspose2d(Z, width, 4, 1, 0, bias=False)]
    for _ in range(blocks):
        up += [nn.BatchNorm2d(width), nn.ReLU(True)]
        up += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False)]
        width //= 2
    up += [nn.BatchNorm2d(width), nn.ReLU(True)]
    up += [nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh()]
    down: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1, bias=False)]
    down += [nn.LeakyReLU(0.2, inplace=True)]
    for _ in range(blocks):
        down += [nn.Conv2d(width, width * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(width * 2)]
        down += [nn.LeakyReLU(0.2, inplace=True)]
        width *= 2
    down += [nn.Conv2d(width, 1, 4, 1, 0, bias=False), nn.Sigmoid()]
    return nn.Sequential(*up).apply(initialize), nn.Sequential(*down).apply(initialize)


def batches(dataset: Dataset, size: int, seed: int) -> Iterator[Tensor]:
    """uint8 images, shuffled again in each epoch."""
    for images, _ in dataset.batches(size, seed):
        yield images


def train_tutorial(
    dataset: Dataset, seed: int, seconds: float, count: int
) -> tuple[UInt8Images, int]:
    """Samples of the tutorial's generator, and the images it saw."""
    torch.manual_seed(seed)
    channels, size, _ = dataset.image_shape
    generator, discriminator = tutorial_networks(channels, size)
    criterion = nn.BCELoss()
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=RATE, betas=(0.5, 0.999))
    adam_g = torch.optim.Adam(generator.parameters(), lr=RATE, betas=(0.5, 0.999))
    seen, began = 0, time.process_time()
    for images in batches(dataset, BATCH, seed):
        real = from_uint8(images)
        ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
        discriminator.zero_grad()
        criterion(discriminator(real).view(-1), ones).backward()
        fake = generator(torch.randn(len(real), Z, 1, 1))
        criterion(discriminator(fake.detach()).view(-1), zeros).backward()
        adam_d.step()
        generator.zero_grad()
        criterion(discriminator(fake).view(-1), ones).backward()
        adam_g.step()
        seen += len(real)
        if time.process_time() - began > seconds:
            break
    torch.manual_seed(seed)
    with torch.no_grad():  # in training mode, as the tutorial draws its samples
        z = torch.randn(count, Z, 1, 1)
        return torch.cat([to_uint8(generator(part)) for part in z.split(200)]), seen


def train_ours(dataset: Dataset, seed: int, seconds: float, count: int) -> tuple[UInt8Images, int]:
    """Samples of our generator, and the images it saw."""
    torch.manual_seed(seed)
    model = GANConfig(
        network=DCGANConfig(latent_dim=Z, channels=WIDTH),
        loss=NonSaturatingLoss(real_target=0.9, fake_target=0.1),
        input_noise=0.05,
    ).build(dataset.image_shape, 0)
    config = TrainingConfig(
        seed=seed,
        batch_size=64,
        budget_images=10**9,
        learning_rate=RATE,
        optimizer=Adam(betas=(0.5, 0.999)),
        averages=(ExponentialAverage(half_life_images=2_000),),
        precision="bfloat16",
    )
    trainer = Trainer(config, model, torch.device("cpu"))
    began = time.process_time()
    for images in batches(dataset, config.batch_size, seed):
        trainer.step(trainer.prepare(images, None))
        if time.process_time() - began > seconds:
            break
    model.eval()
    parts = []
    with weights_in_use(trainer.averages):
        for start in range(0, count, 200):
            seeds = range(start, min(start + 200, count))
            parts.append(to_uint8(model.sample(None, Noise([seed * count + s for s in seeds]))))
    return torch.cat(parts), trainer.state.images


SIDES = {"tutorial": train_tutorial, "ours": train_ours}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both with each seed, score the finished ones, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a data set by name or path")
    parser.add_argument("--classes", nargs="+", default=[], help="these only")
    parser.add_argument("--size", type=int, choices=(32, 64), default=32)
    parser.add_argument("--seconds", type=float, default=120, help="of one thread, for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--images", type=int, default=1000, help="that are scored")
    parser.add_argument("--no-score", action="store_true", help="train only, and score later")
    parser.add_argument("--output", type=Path, default=Path("dcgan"), metavar="DIRECTORY")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen = tuple(int(c) if c.isdecimal() else c for c in options.classes)
    data = DataConfig(source=options.source, classes=chosen, resolution=options.size, held_out=0.2)
    splits = load(data)
    options.output.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.sides:
            path = options.output / f"{name}-{seed}.npz"
            if not path.exists():  # finished runs are not repeated
                images, seen = SIDES[name](splits.train, seed, options.seconds, options.images)
                np.savez(path, images=images.numpy(), seen=seen, seconds=options.seconds)
                image_grid(images[:GRID].numpy(), 8).save(path.with_suffix(".png"))
    if not options.no_score:
        score_runs(splits, options)


def score_runs(splits: Splits, options: argparse.Namespace) -> None:
    """Score all runs against one reference; write results.json and table.md."""
    protocol = EvaluationConfig(
        num_images=options.images, features=EfficientNetFeatures(), metrics=("frechet_distance",)
    )
    evaluator = HeldOut(splits, protocol)
    floor = evaluator.floors["frechet_distance"].value
    runs: list[dict[str, Any]] = []
    lines = ["| | seed | images seen | Fréchet distance | × floor |", "|---|--:|--:|--:|--:|"]
    for name in options.sides:
        for seed in options.seeds:
            with np.load(options.output / f"{name}-{seed}.npz") as file:
                images, seen = torch.from_numpy(file["images"]), int(file["seen"])
                seconds = float(file["seconds"])
            found = score(ArrayImages(images), evaluator, by_class=False).scores["frechet_distance"]
            runs.append({"side": name, "seed": seed, "images_seen": seen, "seconds": seconds})
            runs[-1] |= {"frechet_distance": found.value, "interval": [found.low, found.high]}
            print(runs[-1], flush=True)
            lines.append(
                f"| {name} | {seed} | {seen:,} | {found.value:.3g} [{found.low:.3g}, "
                f"{found.high:.3g}] | {found.value / floor:.1f} |"
            )
    (options.output / "table.md").write_text("\n".join(lines) + "\n")
    record = {"threads": 1, "torch": torch.__version__, "floor": floor, "runs": runs}
    write_json(options.output / "results.json", record | {"protocol": evaluator.protocol})


if __name__ == "__main__":
    main()
