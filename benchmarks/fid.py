"""Times Sfumato's Fréchet distance beside pytorch-fid's: features, then the distance itself.

    python benchmarks/fid.py --images 1000 --output docs/results/speed/fid.json

Needs the packages pytorch-fid and torch-fidelity. Weights are random (the published ones fit the
same network) and images are noise. Both programs get the same input, in turns, in one run.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from pytorch_fid import fid_score
from pytorch_fid import inception as theirs
from torch import Tensor, nn

from sfumato.core.distributed import gpu_name
from sfumato.core.files import write_json
from sfumato.metrics.frechet import (
    FrechetReference,
    frechet_distance,
    frechet_distance_of_moments,
)
from sfumato.metrics.frechet_interval import frechet_estimate
from sfumato.metrics.pretrained import InceptionFeatures
from sfumato.runs.directory import environment

TURN = 250
"""Images after which it is the other's turn."""


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="through the network")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--distances", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, scipy {scipy.__version__}, {options.threads} threads")
    result: dict[str, Any] = {
        "cpu": environment(torch.get_num_threads(), gpu_name())["cpu"],
        "torch": torch.__version__,
        "scipy": scipy.__version__,
        "threads": options.threads,
        "distances": [time_distance(count) for count in options.distances],
    }
    if options.images:
        result["features"] = time_features(options.images, options.batch)
    if options.output:
        write_json(options.output, result)


def time_features(count: int, batch: int) -> dict[str, float]:
    """Images a second, resizing included; in turns, so that both meet the same machine."""
    weights = random_weights()
    extractor = theirs.InceptionV3([3], resize_input=True).eval()
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=random, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save(weights, path)
        ours = InceptionFeatures(weights=path).build(Path(folder))

    @torch.inference_mode()
    def peer(x: Tensor) -> Tensor:
        return extractor(x.float() / 255)[0].flatten(1)

    large = torch.randint(0, 256, (4, 3, 299, 299), generator=random, dtype=torch.uint8)
    # At this size neither resizes. pytorch-fid divides by 255, the original network by 256.
    a, b = peer(large.float() * (255 / 256)), ours(large)
    difference = float((a - b).abs().max() / a.std())
    print(f"features: largest difference {difference:.1e} of their spread")
    seconds = {"pytorch-fid": 0.0, "sfumato": 0.0}
    for part in torch.split(images, TURN):
        for name, function in (("pytorch-fid", peer), ("sfumato", ours)):
            began = time.perf_counter()
            for some in torch.split(part, batch):
                function(some)
            seconds[name] += time.perf_counter() - began
    rates = {name: count / taken for name, taken in seconds.items()}
    for name, rate in rates.items():
        print(f"features, N = {count}: {name:12} {rate:7.1f} img/s")
    ratio = rates["sfumato"] / rates["pytorch-fid"]
    print(f"  ratio {ratio:.2f}")
    return {"images": count, "largest_difference": difference, **rates, "ratio": ratio}


def random_weights() -> dict[str, Tensor]:
    """Weights of pytorch-fid's network, random; pytorch-fid is made to use them too."""
    load_state_dict = nn.Module.load_state_dict
    theirs.load_state_dict_from_url = lambda *_, **__: {}
    nn.Module.load_state_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    torch.manual_seed(0)
    network = theirs.fid_inception_v3()
    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]
    theirs.fid_inception_v3 = lambda: network
    return network.state_dict()


def time_distance(count: int, d: int = 2048) -> dict[str, float]:
    """The distance alone: the square root of a matrix against symmetric eigenvalues.

    Above d both start from moments, below it Sfumato from the features: forming a covariance that
    cannot have full rank is work that it does not do. The reference is prepared beforehand.
    """
    random = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=random) / d**0.5
    a, b = (torch.randn(count, d, generator=random) @ mix for _ in range(2))
    covariances = [torch.from_numpy(np.cov(x.double().numpy(), rowvar=False)) for x in (a, b)]
    reference = FrechetReference.of(b)
    moments = [(x.double().mean(0), c) for x, c in zip((a, b), covariances, strict=True)]
    arrays = [array.numpy() for pair in moments for array in pair]

    def sfumato() -> float:
        if count > d:
            return frechet_distance_of_moments(*moments[0], reference)
        return frechet_distance(a, reference)

    ours, value = best_of_two(sfumato)
    interval, _ = best_of_two(lambda: frechet_estimate(a, reference).value)
    peer, expected = best_of_two(lambda: fid_score.calculate_frechet_distance(*arrays))
    print(
        f"distance, N = {count}, d = {d}: pytorch-fid {peer:.2f} s, sfumato {ours:.2f} s "
        f"(ratio {peer / ours:.0f}); from features, with an interval, {interval:.2f} s; "
        f"relative difference {abs(value - expected) / expected:.1e}"
    )
    return {
        "images": count,
        "pytorch-fid": peer,
        "sfumato": ours,
        "ratio": peer / ours,
        "sfumato_with_interval": interval,
        "relative_difference": abs(value - expected) / expected,
    }


def best_of_two(function: Callable[[], float]) -> tuple[float, float]:
    """Seconds of the faster of two calls, and the value."""
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        value = function()
        seconds.append(time.perf_counter() - began)
    return min(seconds), value


if __name__ == "__main__":
    main()
