"""What a study measures of a run beside its scores: likelihood, quality against NFE, walks."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.core.config import to_mapping
from sfumato.core.console import progress_bar
from sfumato.core.errors import ConfigError
from sfumato.core.files import atomic_path
from sfumato.core.images import to_uint8
from sfumato.core.pictures import image_grid
from sfumato.core.tensors import write_tensors
from sfumato.data.dataset import Splits
from sfumato.evaluation.evaluator import Evaluator
from sfumato.experiment.load import LoadedRun, load_run
from sfumato.explore.interpolation import walks_between_noises
from sfumato.explore.nll import LikelihoodConfig, nll
from sfumato.metrics.estimate import Estimate
from sfumato.runs.result_files import to_record, write_record
from sfumato.runs.results import Measurements, SamplerPoint, ScoreRecord
from sfumato.speed.sampling import sample_images
from sfumato.study.study import Study

MEASURED = "measurements.json"
COMPARED = "compared.safetensors"
COMPARED_IMAGES = 256
"""Samples kept of a run that is compared image by image."""
WALK_POINTS = 8


def recorded(estimate: Estimate) -> ScoreRecord:
    """An estimate as it is written to JSON: without its jackknife terms."""
    return ScoreRecord.model_validate(estimate.to_mapping())


def measure_run(
    run_dir: Path, study: Study, arm: str, evaluator: Evaluator, splits: Splits
) -> None:
    """Measure what the study asks for and the model has; writes measurements.json last of all."""
    loaded = load_run(run_dir)
    wanted = study.measure
    curve: list[SamplerPoint] = []
    likelihood: dict[str, Any] | None = None
    warnings: list[str] = []
    if wanted.sampler_steps and "sampler" in to_mapping(loaded.experiment)["model"]:
        curve = _sampler_curve(loaded, evaluator, wanted.sampler_steps, warnings)
    if wanted.likelihood_images and loaded.experiment.model.kind == "diffusion":
        config = LikelihoodConfig(num_images=wanted.likelihood_images, ode=False)
        result = nll(loaded, splits, config)
        likelihood = {key: result[key] for key in ("train", "held_out", "gap")}
    if wanted.walks:
        _save_walks(loaded, wanted.walks, run_dir / "walks.png")
    if any(arm in pair for pair in study.compare):
        _keep_samples(loaded, evaluator, run_dir / COMPARED)
    content = {"likelihood": likelihood, "warnings": warnings}
    found = to_record(Measurements, content, MEASURED).model_copy(update={"sampler_curve": curve})
    write_record(run_dir / MEASURED, found)


def _sampler_curve(
    loaded: LoadedRun, evaluator: Evaluator, counts: tuple[int, ...], warnings: list[str]
) -> list[SamplerPoint]:
    """The Fréchet distance with each number of steps, from the same noise."""
    points = []
    for steps in sorted(set(counts)):
        try:
            changed = load_run(loaded.directory, [f"model.sampler.steps={steps}"])
            labels = _labels(changed, evaluator)
            began = time.perf_counter()
            images = sample_images(changed.model, labels, range(evaluator.num_images))
        except ConfigError as error:
            warnings.append(f"no score with {steps} sampling steps: {error}")
            continue
        seconds = time.perf_counter() - began
        distance = evaluator.score(images, labels)["frechet_distance"]
        points.append(
            SamplerPoint(
                steps=steps,
                nfe=changed.model.nfe,
                sample_seconds=seconds,
                frechet_distance=recorded(distance),
            )
        )
    return points


def _labels(loaded: LoadedRun, evaluator: Evaluator) -> torch.Tensor | None:
    return evaluator.labels if loaded.model.num_classes else None


def _save_walks(loaded: LoadedRun, number: int, path: Path) -> None:
    """A row a walk from the sample of one seed to that of the next."""
    walks = walks_between_noises(loaded, number, WALK_POINTS, "spherical")
    images = to_uint8(torch.cat(walks)).cpu()
    with atomic_path(path) as temporary:
        image_grid(np.asarray(images), WALK_POINTS).save(temporary, "PNG")


def _keep_samples(loaded: LoadedRun, evaluator: Evaluator, path: Path) -> None:
    """The first samples and their features, to be compared with those of another arm."""
    labels = _labels(loaded, evaluator)
    count = min(COMPARED_IMAGES, evaluator.num_images)
    with progress_bar(f"samples of {loaded.experiment.name} to compare", count) as tell:
        chosen = None if labels is None else labels[:count]
        images = sample_images(loaded.model, chosen, range(count), tell=tell)
    write_tensors(path, {"images": images, "features": evaluator.network(images)})
