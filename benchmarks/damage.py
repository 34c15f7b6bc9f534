"""How the metrics react to known damage: JPEG, noise, missing classes; and the floor curve.

    python benchmarks/damage.py cifar10_train.npz --classes cat

Half of the images (of both splits) are the reference; the other half is scored as it is (the
floor) and damaged in each of these ways. With several classes, one more comparison leaves out the
second half of them. That leaves half as many images; `--missing-only` has a floor of that size.
`--copies` prints instead how many of 400 training images are suspected copies, unchanged and
slightly changed. `--output` keeps the numbers as JSON.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sfumato.core.files import cache_folder, write_json
from sfumato.core.noise import derive_seed
from sfumato.core.numbers import number
from sfumato.data.cache import make_folder
from sfumato.data.catalogue import load
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Splits
from sfumato.evaluation.feature_cache import FeatureCache
from sfumato.evaluation.floor_curve import floor_curve
from sfumato.evaluation.image_sources import shuffled
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.evaluation.reference import scores_of
from sfumato.metrics import find_metric
from sfumato.metrics.estimate import Estimate
from sfumato.metrics.features import ImageFeatures
from sfumato.metrics.memorization import memorization
from sfumato.metrics.pretrained import EfficientNetFeatures
from sfumato.report.terminal import aligned, floor_table

METRICS = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")


def main() -> None:
    """Print a table of scores and the floor curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="as data.source, of colour images")
    parser.add_argument("--classes", nargs="*", default=[], help="keep these only")
    parser.add_argument("--images", type=int, help="at most this many in all")
    parser.add_argument("--limit", type=int, help="load at most this many training images")
    parser.add_argument("--missing-only", action="store_true", help="no JPEG, no noise")
    parser.add_argument("--copies", action="store_true", help="suspected copies, nothing else")
    parser.add_argument("--floor-curve", action="store_true")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    options = parser.parse_args()
    result = measure(options)
    if options.output:
        write_json(options.output, result)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Print the table that was asked for; its numbers."""
    config = DataConfig(source=options.source, classes=tuple(options.classes), limit=options.limit)
    splits = load(config)
    parts = [(part, np.arange(len(part))) for part in (splits.train, splits.held_out)]
    network = EfficientNetFeatures().build(make_folder(cache_folder() / "weights"))
    cached = FeatureCache(network, None, cache_folder(), 100)
    real = cached.parts(parts)  # cached, and the floor curve's too
    if options.copies:
        return copies_found(splits, real.vectors, cached)
    order = shuffled(len(real.vectors), 0)[: options.images]
    ours, theirs = np.array_split(order, 2)
    reference = ImageFeatures(real.vectors[theirs])
    sets = {"real (the floor)": ImageFeatures(real.vectors[ours])}
    if not options.missing_only:
        images = torch.cat([part.take(rows) for part, rows in parts])[ours]
        damaged = {
            "JPEG, quality 75": torch.stack([jpeg(image, 75) for image in images]),
            "noise, standard deviation 8": noisy(images, 8.0),
        }
        sets |= {name: cached.tensor(some) for name, some in damaged.items()}
    if splits.train.num_classes > 1:
        labels = torch.cat([torch.from_numpy(part.labels) for part, _ in parts])[ours]
        kept = torch.nonzero(labels < splits.train.num_classes // 2).flatten()
        if options.missing_only:  # else the floor is that of all images
            sets["real (the floor)"] = ImageFeatures(real.vectors[ours][: len(kept)])
        sets["half of the classes missing"] = ImageFeatures(real.vectors[ours][kept])
    scores = {
        name: scores_of([find_metric(key) for key in METRICS], seen, reference)
        for name, seen in sets.items()
    }
    rows = [["", *(metric.replace("_", " ") for metric in METRICS)]]
    rows += [[name, *(cell(found[metric]) for metric in METRICS)] for name, found in scores.items()]
    name = f"{splits.train.name} {' '.join(options.classes)}"
    counts = " and ".join(str(n) for n in {len(seen.features): None for seen in sets.values()})
    print(f"{name}: {counts} against {len(theirs)} images\n")
    print(aligned(rows))
    if options.floor_curve:
        evaluation = EvaluationConfig(features=EfficientNetFeatures())
        print("\n" + floor_table(floor_curve(splits, evaluation).to_mapping()))
    return {
        name: {"images": len(sets[name].features), "against": len(theirs)}
        | {metric: estimate.to_mapping() for metric, estimate in found.items()}
        for name, found in scores.items()
    }


def copies_found(splits: Splits, features: torch.Tensor, cached: FeatureCache) -> dict[str, Any]:
    """Print the shares of copies of training images that are suspected."""
    train, held_out = (part.take(np.arange(len(part))) for part in (splits.train, splits.held_out))
    planted = train[:400]
    changed = {
        "as they are": planted,
        "noise, standard deviation 2": noisy(planted, 2.0),
        "shifted by one pixel": torch.cat([planted[..., :1], planted[..., :-1]], dim=3),
        "mirrored": planted.flip(3),
    }
    known = torch.tensor_split(features, [len(train)])
    shares = {}
    for name, images in changed.items():
        by_features = memorization(cached.tensor(images).vectors, *known)
        by_pixels = memorization(images, train, held_out, mirrored=True)
        found = {"features": by_features, "pixels": by_pixels}
        shares[name] = {kind: seen.copies.to_mapping() for kind, seen in found.items()}
    shares["held-out images"] = {kind: seen.held_out.to_mapping() for kind, seen in found.items()}
    rows = [
        [name, *(f"{100 * share['value']:.1f} %" for share in kinds.values())]
        for name, kinds in shares.items()
    ]
    print(aligned([["", "features", "pixels"], *rows]))
    return shares


def cell(estimate: Estimate) -> str:
    """Value and the half-width of its interval."""
    assert estimate.low is not None
    assert estimate.high is not None
    return f"{number(estimate.value)} ± {number((estimate.high - estimate.low) / 2)}"


def jpeg(image: torch.Tensor, quality: int) -> torch.Tensor:
    """An image [3, H, W] compressed and read again."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


def noisy(images: torch.Tensor, deviation: float) -> torch.Tensor:
    """Gaussian noise added, rounded and clipped."""
    random = torch.Generator().manual_seed(derive_seed("noise"))
    noise = deviation * torch.randn(images.shape, generator=random)
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


if __name__ == "__main__":
    main()
