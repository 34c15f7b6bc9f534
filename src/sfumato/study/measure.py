"""Measurements of runs beside their scores: likelihood, quality against NFE, interpolations.

Also compares two models image by image: how much of a sample stays if the training changes. Image i
of both has the same seed, noise and class. Two models that learned the same function draw the same
images. Pairs of unrelated models differ as much as images of different seeds.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sfumato.core.config import to_mapping
from sfumato.core.console import progress_bar
from sfumato.core.errors import ConfigError
from sfumato.core.files import atomic_path
from sfumato.core.images import UInt8Images, to_uint8
from sfumato.core.pictures import image_grid
from sfumato.core.tensors import read_tensors, write_tensors
from sfumato.data.dataset import Splits
from sfumato.evaluation.image_sources import ArrayImages
from sfumato.evaluation.reference import HeldOut
from sfumato.evaluation.score import score
from sfumato.experiment.load import LoadedRun, load_run
from sfumato.explore.interpolation import Walk, walks_between_noises
from sfumato.explore.nll import LikelihoodConfig, nll
from sfumato.metrics.estimate import Estimate, with_standard_error
from sfumato.runs.result_files import to_record, write_record
from sfumato.runs.results import Measurements, SamplerPoint, ScoreRecord
from sfumato.speed.sampling import sample_images
from sfumato.study.study import Study

MEASURED = "measurements.json"
COMPARED = "compared.safetensors"
COMPARED_IMAGES = 256
"""Number of stored samples of a run for comparisons image by image."""
WALK_POINTS = 8
COLUMNS = 8
SHOWN = 32


def recorded(estimate: Estimate) -> ScoreRecord:
    """An estimate for JSON: without its jackknife terms."""
    return ScoreRecord.model_validate(estimate.to_mapping())


def measure_run(run_dir: Path, study: Study, arm: str, reference: HeldOut, splits: Splits) -> None:
    """Take the measurements of the study that the model allows; write measurements.json last."""
    loaded = load_run(run_dir)
    wanted = study.measure
    curve: list[SamplerPoint] = []
    likelihood: dict[str, Any] | None = None
    warnings: list[str] = []
    if wanted.sampler_steps and "sampler" in to_mapping(loaded.experiment)["model"]:
        curve = _sampler_curve(loaded, reference, wanted.sampler_steps, warnings)
    if wanted.likelihood_images and loaded.experiment.model.kind == "diffusion":
        config = LikelihoodConfig(num_images=wanted.likelihood_images, ode=False)
        result = nll(loaded, splits, config)
        likelihood = {key: result[key] for key in ("train", "held_out", "gap")}
    if wanted.walks:
        _save_walks(loaded, wanted.walks, run_dir / "walks.png")
    if any(arm in pair for pair in study.compare):
        _keep_samples(loaded, reference, run_dir / COMPARED)
    content = {"likelihood": likelihood, "warnings": warnings}
    found = to_record(Measurements, content, MEASURED).model_copy(update={"sampler_curve": curve})
    write_record(run_dir / MEASURED, found)


def _sampler_curve(
    loaded: LoadedRun, reference: HeldOut, counts: tuple[int, ...], warnings: list[str]
) -> list[SamplerPoint]:
    """The Fréchet distance with each number of steps, from the same noise."""
    points = []
    for steps in sorted(set(counts)):
        try:
            changed = load_run(loaded.directory, [f"model.sampler.steps={steps}"])
            labels = _labels(changed, reference)
            began = time.perf_counter()
            images = sample_images(
                changed.model, labels, range(reference.num_images), plan=changed.plan
            )
        except ConfigError as error:
            warnings.append(f"no score with {steps} sampling steps: {error}")
            continue
        seconds = time.perf_counter() - began
        found = score(ArrayImages(images, labels), reference, by_class=False)
        distance = found.scores["frechet_distance"]
        points.append(
            SamplerPoint(
                steps=steps,
                nfe=changed.model.nfe,
                sample_seconds=seconds,
                frechet_distance=recorded(distance),
            )
        )
    return points


def _labels(loaded: LoadedRun, reference: HeldOut) -> torch.Tensor | None:
    return reference.labels if loaded.model.num_classes else None


def _save_walks(loaded: LoadedRun, number: int, path: Path) -> None:
    """One row per walk from the sample of one seed to that of the next."""
    walks = walks_between_noises(loaded.model, number, Walk(WALK_POINTS))
    images = to_uint8(torch.cat(walks)).cpu()
    with atomic_path(path) as temporary:
        image_grid(np.asarray(images), WALK_POINTS).save(temporary, "PNG")


def _keep_samples(loaded: LoadedRun, reference: HeldOut, path: Path) -> None:
    """Store the first samples and their features, for a comparison with another arm."""
    labels = _labels(loaded, reference)
    count = min(COMPARED_IMAGES, reference.num_images)
    with progress_bar(f"samples of {loaded.experiment.name} to compare", count) as show:
        chosen = None if labels is None else labels[:count]
        images = sample_images(
            loaded.model, chosen, range(count), plan=loaded.plan, on_progress=show
        )
    write_tensors(path, {"images": images, "features": reference.network(images)})


def change(a: Float[Tensor, "N d"], b: Float[Tensor, "N d"]) -> Estimate:
    """Mean squared distance of the pairs, divided by that of images of different seeds.

    0: nothing changed. 1: everything changed; a pair differs as much as images of two seeds. The
    value is a ratio of two means. Its standard error is from the delete-one jackknife.

    Args:
        a, b: row i of both from seed i; pixels or features.
    """
    a, b = a.double(), b.double()
    n = len(a)
    matched = (a - b).square().sum(1)
    norm_a, norm_b = a.square().sum(1), b.square().sum(1)
    to_b = norm_a * n + norm_b.sum() - 2 * a @ b.sum(0)  # from row i of a to all of b
    to_a = norm_b * n + norm_a.sum() - 2 * b @ a.sum(0)
    unmatched = (to_b - matched).sum()
    value = _ratio(matched.sum(), unmatched, n)
    # Without image i: its pair, its row and its column are gone.
    left = unmatched - (to_b - matched) - (to_a - matched)
    without = _ratio(matched.sum() - matched, left, n - 1)
    error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    return with_standard_error(float(value), float(error), n, least=0.0)


def _ratio(matched: Tensor, unmatched: Tensor, n: int) -> Tensor:
    return (matched / n) / (unmatched / (n * (n - 1))).clamp_min(1e-300)


def compare_runs(a: Path, b: Path, picture: Path) -> tuple[Estimate, Estimate]:
    """Compare the stored samples of two runs, and draw them in alternating rows.

    Args:
        a, b: files COMPARED of the runs.
        picture: the file to draw.
    Returns:
        The change of pixels and of features.
    """
    left, right = read_tensors(a), read_tensors(b)
    pixels = [side["images"].flatten(1).float() for side in (left, right)]
    _draw(left["images"], right["images"], picture)
    return change(pixels[0], pixels[1]), change(left["features"], right["features"])


def _draw(a: UInt8Images, b: UInt8Images, path: Path) -> None:
    rows: list[UInt8[np.ndarray, "k C H W"]] = []
    for start in range(0, min(SHOWN, len(a) // COLUMNS * COLUMNS), COLUMNS):
        rows += [np.asarray(side[start : start + COLUMNS]) for side in (a, b)]
    with atomic_path(path) as temporary:
        image_grid(np.concatenate(rows), COLUMNS).save(temporary, "PNG")
