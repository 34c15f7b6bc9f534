"""Fréchet distance against seconds of training, for the same minutes of each project.

    python benchmarks/time_to_quality.py train --seconds 300 --output ttq     # on an idle machine
    python benchmarks/time_to_quality.py score --output ttq                   # no timing: any load

Trains a recipe of Sfumato (`--recipe`; with the classes, as shipped, and without, as the peers
train), denoising-diffusion-pytorch's `Trainer` and diffusers' training example, each with its own
defaults, one after the other for the same seconds. At three points of each run the averaged
weights are kept. `score` draws 500 images from each with 25 steps, and writes results.json, a
table, a plot and a grid. `score` continues where it was stopped.

Needs the packages diffusers and denoising-diffusion-pytorch. The peers train in float32, their
default; drawing their images in bfloat16 saves an hour of scoring. The peers' clock stops while
weights are written, as Sfumato's does. To train a peer for an hour:
`train --projects denoising-diffusion-pytorch --seconds 3660`.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from peer_trainers import SIZE, DenoisingDiffusionPytorch, DiffusersExample, Peer, padded
from PIL import Image
from safetensors.torch import load_file, save_file

from sfumato import HeldOut, load_data, load_experiment, sample_images, train
from sfumato.core.files import write_json
from sfumato.core.pictures import image_grid
from sfumato.evaluation.image_sources import ArrayImages
from sfumato.evaluation.score import score
from sfumato.explore.samples import load_weaker

POINTS = 3
STEPS = 25
OURS = {"sfumato": [], "sfumato-unconditional": ["conditional=false", "model.guidance.scale=1.0"]}
PEERS = (DenoisingDiffusionPytorch.name, DiffusersExample.name)


def main() -> None:
    """Train or score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("train", "score"))
    parser.add_argument("--projects", nargs="+", default=[*OURS, *PEERS])
    parser.add_argument("--recipe", default="fashion-mnist-flow", help="Sfumato's")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--images", type=int, default=500, help="N")
    parser.add_argument("--source", help="data.source, in place of the recipe's")
    parser.add_argument("--output", type=Path, default=Path("time-to-quality"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for project in options.projects:
        if options.stage == "train":
            train_one(project, options)
        else:
            score_one(project, options)
    if options.stage == "score":
        summarize(options)


def train_one(project: str, options: argparse.Namespace) -> None:
    """Train a project for the seconds and keep points.json beside its weights."""
    folder = options.output / project
    if (folder / "points.json").exists():
        print(f"{project}: trained before")
        return
    points = (
        train_ours(project, folder, options)
        if project in OURS
        else train_peer(project, folder, options)
    )
    write_json(folder / "points.json", {"points": points, "machine": machine()})
    print(project, points)


def train_ours(project: str, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A run with checkpoints at thirds of its time, found among many."""
    experiment = ours(project, options)
    run_dir = folder / "run"
    train(experiment, run_dir, log=print)
    states = []
    for path in sorted((run_dir / "checkpoints").glob("*.json")):
        state = json.loads(path.read_text())["state"]
        states.append((state["seconds"], state["images"], path.with_suffix(".safetensors")))
    points = []
    for k in range(1, POINTS + 1):
        seconds, images, path = min(
            states, key=lambda state: abs(state[0] - options.seconds * k / POINTS)
        )
        points.append({"seconds": seconds, "images": images, "weights": str(path)})
    return points


def ours(project: str, options: argparse.Namespace) -> Any:
    """The recipe, by the clock."""
    return load_experiment(
        options.recipe,
        [
            *source(options),
            f"training.budget_seconds={options.seconds}",
            "training.checkpoint_images=4096",
            "training.keep_checkpoints=10000",
            "training.sample_images=0",
            f"evaluation.num_images={options.images}",
            *OURS[project],
        ],
    )


def source(options: argparse.Namespace) -> list[str]:
    """The override of the recipe's data, if any."""
    return [f"data.source={options.source}"] if options.source else []


def train_peer(project: str, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A peer's loop under our clock."""
    peer = build_peer(project, folder, options)
    folder.mkdir(parents=True, exist_ok=True)
    points: list[dict[str, Any]] = []
    seconds, steps = 0.0, 0
    while len(points) < POINTS:
        began = time.perf_counter()
        peer.step()
        seconds += time.perf_counter() - began
        steps += 1
        if seconds >= options.seconds * (len(points) + 1) / POINTS:
            path = folder / f"{len(points)}.safetensors"
            network = peer.sampled()
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
            points.append(
                {"seconds": seconds, "images": steps * peer.batch_size, "weights": str(path)}
            )
    return points


def build_peer(project: str, folder: Path, options: argparse.Namespace) -> Peer:
    """A peer with its data, made ready outside the clock."""
    experiment = load_experiment(options.recipe, source(options))
    train = load_data(experiment.data).train
    images = padded(train.take(np.arange(len(train))).numpy())
    if project == DiffusersExample.name:
        return DiffusersExample(images)
    pictures = folder / "images"
    if not pictures.exists():
        pictures.mkdir(parents=True)
        for k, image in enumerate(images):
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            Image.fromarray(pixels).save(pictures / f"{k:05d}.png", compress_level=0)
    return DenoisingDiffusionPytorch(pictures, STEPS, images.shape[1])


def score_one(project: str, options: argparse.Namespace) -> None:
    """Draw the images of every point (once) and score them."""
    folder = options.output / project
    experiment = ours("sfumato", options)
    evaluator = HeldOut(load_data(experiment.data), experiment.evaluation)
    points = json.loads((folder / "points.json").read_text())
    peer = None if project in OURS else build_peer(project, folder, options)
    for k, point in reversed(list(enumerate(points["points"]))):  # the end of training first
        path = folder / f"samples-{k}.npz"
        if not path.exists():
            began = time.perf_counter()
            weights = Path(point["weights"])
            images = (
                sample_ours(weights, evaluator)
                if peer is None
                else sample_peer(peer, weights, evaluator)
            )
            np.savez(path, x=images.numpy())
            print(f"{project}: point {k} drawn in {time.perf_counter() - began:.0f} s", flush=True)
        images = torch.from_numpy(np.load(path)["x"])
        found = score(ArrayImages(images), evaluator, by_class=False)
        distance = found.scores["frechet_distance"]
        floor = evaluator.floors["frechet_distance"]
        point |= {"frechet_distance": distance.to_mapping(), "floor": floor.to_mapping()}
        print(project, point["seconds"], distance, f"{distance.value / floor.value:.1f} x floor")
        points["protocol"] = evaluator.protocol
        write_json(folder / "points.json", points)


def sample_ours(weights: Path, evaluator: HeldOut) -> torch.Tensor:
    """By the recipe's sampler with at most as many evaluations as the peers have steps."""
    model = load_weaker(weights).model
    labels = evaluator.labels if model.num_classes else None
    return sample_images(model, labels, seeds=range(evaluator.num_images))


def sample_peer(peer: Peer, weights: Path, evaluator: HeldOut) -> torch.Tensor:
    """By DDIM; the pixels within the padding."""
    torch.manual_seed(0)
    count, size = evaluator.num_images, evaluator.splits.train.image_shape[-1]
    pad = (SIZE - size) // 2
    target = peer.model if isinstance(peer, DiffusersExample) else peer.sampled()
    target.load_state_dict(load_file(weights))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = [peer.sample(min(100, count - k), STEPS).float() for k in range(0, count, 100)]
    within = torch.cat(parts)[:, :, pad : pad + size, pad : pad + size]
    return (within * 255).round().to(torch.uint8)


def summarize(options: argparse.Namespace) -> None:
    """results.json, table, plot and grid of everything scored so far."""
    projects = {}
    for project in [*OURS, *PEERS]:
        path = options.output / project / "points.json"
        if path.exists():
            found = json.loads(path.read_text())
            found["points"] = [point for point in found["points"] if "floor" in point]
            for point in found["points"]:
                point.pop("weights")
            if found["points"]:
                projects[project] = found
    write_json(options.output / "results.json", projects)
    figure, axes = plt.subplots(figsize=(7, 4.5))
    print(
        "| project | seconds | images seen | Fréchet distance | × floor |\n"
        "|---|---:|---:|---:|---:|"
    )
    for project, found in projects.items():
        points = found["points"]
        seconds = [point["seconds"] for point in points]
        values = [point["frechet_distance"]["value"] for point in points]
        axes.plot(seconds, values, "o-", label=project)
        floor = points[-1]["floor"]["value"]
        for point, value in zip(points, values, strict=True):
            print(
                f"| {project} | {point['seconds']:.0f} | {point['images']:,} | {value:.3g} | "
                f"{value / floor:.1f} |"
            )
    axes.axhline(floor, ls="--", color="grey", label=f"real images (floor), N = {options.images}")
    axes.set(xlabel="seconds of training", ylabel="Fréchet distance", yscale="log")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(options.output / "curve.png", dpi=110)
    rows = [np.load(options.output / p / f"samples-{POINTS - 1}.npz")["x"][:16] for p in projects]
    image_grid(np.concatenate(rows), columns=16, scale=1).save(options.output / "grid.png")


def machine() -> dict[str, Any]:
    """Where the seconds were measured."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
