"""What a study measures of a run beside its scores: likelihood, quality against NFE, walks."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.core.config import to_mapping
from sfumato.core.console import progress_bar
from sfumato.core.errors import ConfigError
from sfumato.core.files import atomic_path, write_json
from sfumato.core.images import to_uint8
from sfumato.core.pictures import image_grid
from sfumato.core.tensors import write_tensors
from sfumato.data.dataset import Splits
from sfumato.evaluation.image_sources import ArrayImages
from sfumato.evaluation.reference import HeldOut
from sfumato.evaluation.score import score
from sfumato.experiment.load import LoadedRun, load_run
from sfumato.explore.interpolation import walks_between_noises
from sfumato.explore.nll import LikelihoodConfig, nll
from sfumato.speed.sampling import sample_images
from sfumato.study.study import Study

MEASURED = "measurements.json"
COMPARED = "compared.safetensors"
COMPARED_IMAGES = 256
"""Samples kept of a run that is compared image by image."""
WALK_POINTS = 8


def measure_run(
    run_dir: Path, study: Study, arm: str, reference: HeldOut, splits: Splits
) -> dict[str, Any]:
    """Measure what the study asks for and the model has; writes measurements.json last of all."""
    loaded = load_run(run_dir)
    wanted = study.measure
    found: dict[str, Any] = {}
    warnings: list[str] = []
    if wanted.sampler_steps and "sampler" in to_mapping(loaded.experiment)["model"]:
        found["sampler_curve"] = _sampler_curve(loaded, reference, wanted.sampler_steps, warnings)
    if wanted.likelihood_images and loaded.experiment.model.kind == "diffusion":
        config = LikelihoodConfig(num_images=wanted.likelihood_images, ode=False)
        result = nll(loaded, splits, config)
        found["likelihood"] = {key: result[key] for key in ("train", "held_out", "gap")}
    if wanted.walks:
        _save_walks(loaded, wanted.walks, run_dir / "walks.png")
    if any(arm in pair for pair in study.compare):
        _keep_samples(loaded, reference, run_dir / COMPARED)
    found["warnings"] = warnings
    write_json(run_dir / MEASURED, found)
    return found


def _sampler_curve(
    loaded: LoadedRun, reference: HeldOut, counts: tuple[int, ...], warnings: list[str]
) -> list[dict[str, Any]]:
    """The Fréchet distance with each number of steps, from the same noise."""
    points = []
    for steps in sorted(set(counts)):
        try:
            changed = load_run(loaded.directory, [f"model.sampler.steps={steps}"])
            labels = _labels(changed, reference)
            began = time.perf_counter()
            images = sample_images(changed.model, labels, range(reference.num_images))
        except ConfigError as error:
            warnings.append(f"no score with {steps} sampling steps: {error}")
            continue
        seconds = time.perf_counter() - began
        found = score(ArrayImages(images, labels), reference, by_class=False)
        distance = found.scores["frechet_distance"]
        points.append(
            {
                "steps": steps,
                "nfe": changed.model.nfe,
                "sample_seconds": seconds,
                "frechet_distance": distance.to_mapping(),
            }
        )
    return points


def _labels(loaded: LoadedRun, reference: HeldOut) -> torch.Tensor | None:
    return reference.labels if loaded.model.num_classes else None


def _save_walks(loaded: LoadedRun, number: int, path: Path) -> None:
    """A row a walk from the sample of one seed to that of the next."""
    walks = walks_between_noises(loaded, number, WALK_POINTS, "spherical")
    images = to_uint8(torch.cat(walks)).cpu()
    with atomic_path(path) as temporary:
        image_grid(np.asarray(images), WALK_POINTS).save(temporary, "PNG")


def _keep_samples(loaded: LoadedRun, reference: HeldOut, path: Path) -> None:
    """The first samples and their features, to be compared with those of another arm."""
    labels = _labels(loaded, reference)
    count = min(COMPARED_IMAGES, reference.num_images)
    with progress_bar(f"samples of {loaded.experiment.name} to compare", count) as tell:
        chosen = None if labels is None else labels[:count]
        images = sample_images(loaded.model, chosen, range(count), tell=tell)
    write_tensors(path, {"images": images, "features": reference.network(images)})
