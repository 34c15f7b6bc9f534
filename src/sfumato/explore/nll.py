"""How likely a run finds the images it was trained on and those it has not seen.

The gap between the two is a gauge of overfitting: a model that memorized the training images
gives them fewer bits than others of the same kind.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sfumato.core.config import PositiveFloat, PositiveInt, component
from sfumato.core.console import progress_bar
from sfumato.core.files import write_json
from sfumato.core.images import Batch
from sfumato.core.noise import Noise
from sfumato.core.tensors import read_tensors, write_tensors
from sfumato.data.dataset import Dataset, EpochOrder, Splits
from sfumato.diffusion.denoiser import ClipToRange, Denoiser, clipped
from sfumato.diffusion.diffusion_model import DiffusionModel
from sfumato.diffusion.grid import KarrasGrid, UniformGrid
from sfumato.diffusion.likelihood import (
    FixedVariance,
    Trace,
    dequantize,
    ode_likelihood,
    variational_bound,
)
from sfumato.diffusion.noise_schedule import NoiseSchedule, TimeGrid
from sfumato.diffusion.samplers.ancestral import AncestralSampler
from sfumato.experiment.load import LoadedRun
from sfumato.explore.real_images import diffusion_of, real_batch
from sfumato.metrics.estimate import Estimate, LeftOut, with_standard_error

CONTINUOUS_STEPS = 1000
TERMS = {
    "prior": "L_T",
    "steps": "sum of L_{t-1}",
    "decoder": "L_0",
    "bound": "bound",
    "ode": "ODE",
}
"""What is estimated, and its name in a table."""


@component
class LikelihoodConfig:
    """How likelihoods are measured.

    Args:
        num_images: of each split, chosen by `seed`; all if there are fewer. The interval needs 2.
        steps: of the bound; None: all T of a discrete schedule, 1000 of a continuous one.
        fixed_variance: of the reverse steps, where the variance is not learned.
        ode: whether to measure the likelihood of the probability flow too, the slower of the two.
        tolerance: of the ODE solver, relative and absolute.
        trace: of the ODE's Jacobian: Hutchinson's estimate, or exact with one backward pass per
            dimension (small images only).
        probes: of Hutchinson's estimate.
        batch_size: images at a time.
        seed: of the choice of images and of the noise.
    Raises:
        ConfigError: a value out of range.
    """

    num_images: Annotated[int, Field(ge=2)] = 64
    steps: PositiveInt | None = None
    fixed_variance: FixedVariance = "small"
    ode: bool = True
    tolerance: PositiveFloat = 1e-4
    trace: Trace = "hutchinson"
    probes: PositiveInt = 1
    batch_size: PositiveInt = 64
    seed: int = 0


@dataclass(frozen=True)
class Likelihood:
    """-log2 p / D of the images of a split: the mean with its interval over images.

    Args:
        terms: by the keys of TERMS: L_T, the sum of the L_{t-1}, L_0, their sum, and the ODE's;
            without the last where the ODE has no start.
        ode_nfe: evaluations of the denoiser that the ODE solver took, mean over the batches.
        ode_noise_level: sigma / alpha at which the ODE starts.
        bound: of each image.
    """

    terms: dict[str, Estimate]
    ode_nfe: float | None
    ode_noise_level: float | None
    bound: Float[Tensor, " N"]


def likelihood(
    denoiser: Denoiser, batches: Iterator[tuple[Batch, Noise]], config: LikelihoodConfig
) -> Likelihood:
    """The bound term by term, and the ODE likelihood, of all images in `batches`.

    The prediction of x_0 is clipped to [-1, 1] in the bound, as ancestral sampling does. The ODE
    likelihood is left out where the schedule has zero terminal SNR on a grid.

    Args:
        batches: images in [-1, 1] at the 256 levels, each batch with one stream per image.
    Source: Ho et al. 2020, eq. 5; Song et al. 2021 (SDE), appendix D.2.
    """
    schedule = denoiser.schedule
    times = bound_times(schedule, config.steps)
    has_ode = config.ode and (schedule.table is None or not schedule.table.has_zero_terminal_snr)
    found: dict[str, list[Float[Tensor, " B"]]] = {key: [] for key in TERMS}
    nfe, levels = [], []
    for batch, noise in batches:
        images, labels = batch.images, batch.labels
        bound = variational_bound(
            clipped(denoiser, ClipToRange()), images, labels, noise, times, config.fixed_variance
        )
        found["prior"].append(bound.prior)
        found["steps"].append(bound.steps[:, :-1].sum(1))
        found["decoder"].append(bound.steps[:, -1])
        found["bound"].append(bound.total)
        if has_ode:
            x = dequantize(images, noise)
            ode = ode_likelihood(
                denoiser, x, labels, noise, config.trace, config.probes, config.tolerance
            )
            found["ode"].append(ode.bits_per_dim)
            nfe.append(ode.nfe)
            levels.append(ode.noise_level)
    terms = {key: _mean(torch.cat(parts)) for key, parts in found.items() if parts}
    return Likelihood(
        terms,
        float(np.mean(nfe)) if nfe else None,
        levels[0] if levels else None,
        torch.cat(found["bound"]).double().cpu(),
    )


def bound_times(schedule: NoiseSchedule, steps: int | None) -> TimeGrid:
    """The grid of the bound: all steps of a discrete schedule, many of a continuous one.

    Raises:
        ConfigError: more steps than a discrete schedule has.
    """
    if schedule.table is not None:
        return UniformGrid()(schedule, steps or schedule.table.num_steps)
    # Equal steps of sigma would leave the noise levels of the data to the very last of them.
    grid = KarrasGrid() if schedule.scaling == "exploding" else UniformGrid()
    return grid(schedule, steps or CONTINUOUS_STEPS)


def _mean(bits: Float[Tensor, " N"]) -> Estimate:
    values = bits.double().cpu()
    error = values.std().item() / math.sqrt(len(values))
    return with_standard_error(values.mean().item(), error, len(values))


def nll(loaded: LoadedRun, splits: Splits, config: LikelihoodConfig) -> dict[str, Any]:
    """Bits per dimension of training and held-out images, side by side, and their gap.

    Writes nll.json into the run directory, and nll.safetensors with the bound of every image.

    Args:
        loaded: a run of a diffusion model; conditional models are given the classes.
        splits: its data.
    Returns:
        Plain values: {"train", "held_out", "gap": terms by key, ...protocol}.
    Raises:
        RunError: the run has no likelihood, such as a GAN's.
    """
    model = diffusion_of(loaded, "the likelihood of images")
    sampler = model.config.sampler
    fixed = config.fixed_variance
    if isinstance(sampler, AncestralSampler) and sampler.variance == "large":
        fixed = "large"
    config = replace(config, fixed_variance=fixed)
    sides = {}
    for key, dataset in (("train", splits.train), ("held_out", splits.held_out)):
        count = min(config.num_images, len(dataset))
        with progress_bar(f"likelihood, {dataset.split}", count) as on_progress:
            sides[key] = likelihood(
                model.denoiser, _batches(dataset, model, config, on_progress), config
            )
    result: dict[str, Any] = {
        key: {name: term.to_mapping() for name, term in side.terms.items()}
        for key, side in sides.items()
    }
    result["gap"] = {
        name: _difference(sides["held_out"].terms[name], term).to_mapping()
        for name, term in sides["train"].terms.items()
    }
    result |= {
        "unit": "bits per dimension",
        "conditional": model.num_classes > 0,
        "steps": len(bound_times(model.config.schedule, config.steps)) - 1,
        "variance": "learned" if model.config.learned_variance else fixed,
        "ode_tolerance": config.tolerance,
        "ode_trace": config.trace,
        "ode_probes": config.probes if config.trace == "hutchinson" else None,
        "ode_nfe": sides["held_out"].ode_nfe,
        "ode_noise_level": sides["held_out"].ode_noise_level,
        "seed": config.seed,
    }
    bounds = {f"{key}.bound": side.bound for key, side in sides.items()}
    write_tensors(loaded.directory / "nll.safetensors", bounds)
    write_json(loaded.directory / "nll.json", result)
    return result


def held_out_bits(run_dir: Path) -> Estimate:
    """The bound of held-out images that `nll` wrote, ready to be compared image by image.

    Raises:
        RunError: it is not there.
    """
    bits = read_tensors(run_dir / "nll.safetensors")["held_out.bound"]
    without = (bits.sum() - bits) / (len(bits) - 1)
    return replace(_mean(bits), left_out=LeftOut(without))


def _difference(a: Estimate, b: Estimate) -> Estimate:
    assert a.standard_error is not None
    assert b.standard_error is not None
    error = math.hypot(a.standard_error, b.standard_error)
    return with_standard_error(a.value - b.value, error, min(a.n, b.n))


def _batches(
    dataset: Dataset,
    model: DiffusionModel,
    config: LikelihoodConfig,
    on_progress: Callable[[int], None],
) -> Iterator[tuple[Batch, Noise]]:
    """Images chosen by the seed, on the model's device, each with a stream of its own."""
    chosen = EpochOrder(len(dataset), config.seed).at(0, min(config.num_images, len(dataset)))
    for start in range(0, len(chosen), config.batch_size):
        rows = chosen[start : start + config.batch_size]
        seeds = range(config.seed + start, config.seed + start + len(rows))
        yield real_batch(model, dataset, rows.tolist()), Noise(seeds)
        on_progress(start + len(rows))


def nll_table(result: dict[str, Any]) -> str:
    """The result for people: one row per term, train and held-out side by side, and their gap."""
    lines = [f"{result['unit']:<16}{'train':>18}{'held-out':>18}{'gap':>18}"]
    for key, name in TERMS.items():
        if key in result["gap"]:
            cells = [_cell(result[side][key]) for side in ("train", "held_out", "gap")]
            lines.append(f"{name:<16}" + "".join(f"{cell:>18}" for cell in cells))
    images = result["train"]["bound"]["n"], result["held_out"]["bound"]["n"]
    lines.append(
        f"{images[0]} and {images[1]} images, ± half of the 95 % interval; bound of "
        f"{result['steps']} steps, variance {result['variance']}"
    )
    if "ode" in result["gap"]:
        lines.append(
            f"ODE: {result['ode_trace']} trace, tolerance {result['ode_tolerance']:g}, "
            f"{result['ode_nfe']:.0f} evaluations, "
            f"data blurred by sigma / alpha = {result['ode_noise_level']:.2g}"
        )
    else:
        lines.append("no ODE likelihood: the schedule has zero terminal SNR")
    return "\n".join([*lines, _verdict(result["gap"]["bound"])])


def _cell(term: dict[str, Any]) -> str:
    value, reach = term["value"], (term["high"] - term["low"]) / 2
    digits = ".4f" if max(abs(value), reach) >= 0.001 else ".0e"  # L_T is 1e-5 and yet not 0
    return f"{value:{digits}} ± {reach:{digits}}"


def _verdict(gap: dict[str, Any]) -> str:
    if gap["low"] > 0:
        return "held-out images cost more bits than training images: the model overfits"
    return "no overfitting shown: the interval of the gap contains 0 or lies below it"
