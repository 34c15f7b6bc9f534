"""Compares all samplers on a trained run: quality against evaluations of the network.

    python benchmarks/samplers.py runs/digits-ddpm --images 256 --output benchmarks/samplers

Every sampler starts from the same noise. Two numbers for each: the root mean square distance of
its images from those of a long, precise solution of the same ODE, and the Fréchet distance to
held-out images. Writes OUTPUT.md, OUTPUT.json and OUTPUT.png.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from sfumato.core.errors import ConfigError, RunError
from sfumato.core.files import write_bytes, write_json
from sfumato.core.images import Images, Labels, to_uint8
from sfumato.core.noise import Noise
from sfumato.diffusion.clip import NoClip
from sfumato.diffusion.grid import AnyGrid, KarrasGrid, LogSnrGrid, TrailingGrid, UniformGrid
from sfumato.diffusion.model import DiffusionModel
from sfumato.diffusion.samplers.ancestral import AncestralSampler, DDIMSampler
from sfumato.diffusion.samplers.auto import NOISIEST, AutoSampler
from sfumato.diffusion.samplers.deis import DEISSampler
from sfumato.diffusion.samplers.dpm_solver import (
    DPMSolverMultistepSampler,
    DPMSolverSinglestepSampler,
)
from sfumato.diffusion.samplers.heun import HeunSampler
from sfumato.diffusion.samplers.ipndm import IPNDMSampler, PNDMSampler
from sfumato.diffusion.samplers.sampler import Sampler
from sfumato.diffusion.samplers.unipc import UniPCSampler
from sfumato.diffusion.schedule import NoiseSchedule
from sfumato.run.evaluate import Evaluator
from sfumato.run.plots import save_figure
from sfumato.run.score import load_with_data

NFE = (5, 6, 8, 10, 15, 20, 50)
GRID_NAMES = ("uniform", "trailing", "log_snr", "karras")
REFERENCE_STEPS = 1000
STOCHASTIC = ("ancestral", "dpm++ 2m sde")
"""They do not follow the ODE, so that they have no error."""

Make = Callable[[int, AnyGrid], Sampler]
SAMPLERS: dict[str, Make] = {
    "ddim": lambda nfe, grid: DDIMSampler(steps=nfe, grid=grid, clip=NoClip()),
    "heun": lambda nfe, grid: HeunSampler(steps=(nfe + 1) // 2, grid=grid),
    "dpm++ 2s": lambda nfe, grid: DPMSolverSinglestepSampler(steps=(nfe + 1) // 2, grid=grid),
    "dpm++ 3s": lambda nfe, grid: DPMSolverSinglestepSampler(
        steps=(nfe + 2) // 3, order=3, grid=grid
    ),
    "dpm++ 2m": lambda nfe, grid: DPMSolverMultistepSampler(steps=nfe, grid=grid),
    "dpm++ 3m": lambda nfe, grid: DPMSolverMultistepSampler(steps=nfe, order=3, grid=grid),
    "unipc-2": lambda nfe, grid: UniPCSampler(steps=nfe, grid=grid),
    "unipc-3": lambda nfe, grid: UniPCSampler(steps=nfe, order=3, grid=grid),
    "deis t": lambda nfe, grid: DEISSampler(steps=nfe, grid=grid),
    "deis log rho": lambda nfe, grid: DEISSampler(steps=nfe, basis="log_rho", grid=grid),
    "ipndm-2": lambda nfe, grid: IPNDMSampler(steps=nfe, order=2, grid=grid),
    "ipndm-4": lambda nfe, grid: IPNDMSampler(steps=nfe, grid=grid),
    "pndm": lambda nfe, grid: PNDMSampler(steps=nfe - 9, grid=grid),
    "ancestral": lambda nfe, grid: AncestralSampler(steps=nfe, grid=grid),
    "dpm++ 2m sde": lambda nfe, grid: DPMSolverMultistepSampler(
        steps=nfe, stochastic=True, grid=grid
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("--images", type=int, default=256, help="for each number (default: 256)")
    parser.add_argument("--nfe", type=int, nargs="+", default=list(NFE))
    parser.add_argument("--grids", nargs="+", choices=GRID_NAMES, default=["log_snr", "karras"])
    parser.add_argument("--reference-steps", type=int, default=REFERENCE_STEPS)
    parser.add_argument("--no-frechet", action="store_true", help="the error alone")
    parser.add_argument("--output", type=Path, default=Path("samplers"), metavar="STEM")
    options = parser.parse_args(arguments)
    result = compare(
        options.run_dir,
        images=options.images,
        evaluations=options.nfe,
        grids=options.grids,
        reference_steps=options.reference_steps,
        frechet=not options.no_frechet,
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    table = to_markdown(result)
    write_json(options.output.with_suffix(".json"), result)
    write_bytes(options.output.with_suffix(".md"), table.encode())
    draw(result, options.output.with_suffix(".png"))
    print(table)


def compare(
    run_dir: Path,
    *,
    images: int,
    evaluations: Sequence[int],
    grids: Sequence[str],
    reference_steps: int,
    frechet: bool,
) -> dict[str, Any]:
    """All samplers at all budgets: {"reference", "floor", "rows": [...]}."""
    loaded, splits = load_with_data(run_dir, [])
    model = loaded.model
    if not isinstance(model, DiffusionModel):
        raise RunError(f"{run_dir} is no diffusion model; it has no samplers to compare")
    evaluator = None
    if frechet:
        config = replace(loaded.experiment.evaluation, num_images=images)
        evaluator = Evaluator(splits, replace(config, metrics=("frechet_distance",)))
    labels: Labels | None = None
    if model.num_classes:
        labels = torch.arange(images) % model.num_classes if not evaluator else evaluator.labels
    precise = HeunSampler(steps=reference_steps, grid=grids_of(model.config.schedule)["log_snr"])
    began = time.perf_counter()
    reference = sample(model, precise, labels, images)
    print(f"reference: {precise.nfe} evaluations, {time.perf_counter() - began:.0f} s", flush=True)
    rows = []
    for name, grid, nfe, sampler in candidates(model, evaluations, grids):
        x_0 = sample(model, sampler, labels, images)
        error = (x_0 - reference).square().mean().sqrt().item()
        row = {"sampler": name, "grid": grid, "budget": nfe, "nfe": sampler.nfe}
        row["error"] = None if name in STOCHASTIC else error
        if evaluator is not None:
            score = evaluator.score(to_uint8(x_0), labels)["frechet_distance"]
            row["frechet_distance"] = score.to_mapping()
        rows.append(row)
        print(row, flush=True)
    result: dict[str, Any] = {"run": run_dir.name, "images": images, "rows": rows}
    result["reference"] = f"Heun, {precise.steps} steps"
    if evaluator is not None:
        score = evaluator.score(to_uint8(reference), labels)["frechet_distance"]
        result["reference_frechet_distance"] = score.to_mapping()
        result["floor"] = evaluator.floors["frechet_distance"].to_mapping()
    return result


def grids_of(schedule: NoiseSchedule) -> dict[str, AnyGrid]:
    """All grids start at one noise level, so that all samplers follow one path of the ODE.

    That is the schedule's end, or sigma / alpha = 80 where it goes on to more: uniform and trailing
    grids, which have no choice, then are left out.
    """
    end = (-schedule.log_snr(torch.ones((), dtype=torch.float64)) / 2).exp().item()
    if end > NOISIEST:
        return {"log_snr": LogSnrGrid(sigma_max=NOISIEST), "karras": KarrasGrid(sigma_max=NOISIEST)}
    every = (UniformGrid(), TrailingGrid(), LogSnrGrid(), KarrasGrid())
    return dict(zip(GRID_NAMES, every, strict=True))


def candidates(
    model: DiffusionModel, evaluations: Sequence[int], grids: Sequence[str]
) -> list[tuple[str, str, int, Sampler]]:
    """The samplers that can run on the model with at most each number of evaluations."""
    config = model.config
    parts = (config.schedule, config.parameterization, config.learned_variance)
    found: list[tuple[str, str, int, Sampler]] = []
    for nfe in evaluations:
        found.append(("auto", "auto", nfe, AutoSampler(steps=nfe)))
        known = grids_of(config.schedule)
        for grid in (name for name in grids if name in known):
            for name, make in SAMPLERS.items():
                try:
                    sampler = make(nfe, known[grid])
                    sampler.check(*parts)
                except (ValueError, ConfigError):  # too few steps, or no meaning on this schedule
                    continue
                if sampler.nfe <= nfe:
                    found.append((name, grid, nfe, sampler))
    return found


@torch.no_grad()
def sample(model: DiffusionModel, sampler: Sampler, labels: Labels | None, count: int) -> Images:
    """Images from the noise of seeds 0 to count - 1, by another sampler than the config's."""
    schedule = model.config.schedule
    chosen = sampler.for_model(schedule, model.config.parameterization)
    std = schedule.start_std(chosen.grid(schedule, chosen.steps)[0])
    parts = []
    for start in range(0, count, 256):
        noise = Noise(range(start, min(start + 256, count)))
        x_1 = noise.normal(*model.image_shape) * std
        some = None if labels is None else labels[start : start + 256]
        parts.append(sampler(model.denoiser, x_1, some, noise).clamp(-1, 1))
    return torch.cat(parts)


def to_markdown(result: dict[str, Any]) -> str:
    """A table for each number: a row a sampler and grid, a column a budget of evaluations."""
    budgets = sorted({row["budget"] for row in result["rows"]})
    lines = [f"{result['run']}, N = {result['images']}; reference: {result['reference']}.", ""]
    for key, title in MEASURES.items():
        if not any(value_of(row, key) is not None for row in result["rows"]):
            continue
        lines += [f"{title} at an NFE of at most", ""]
        lines.append("| sampler | grid | " + " | ".join(map(str, budgets)) + " |")
        lines.append("|---|---|" + "--:|" * len(budgets))
        for name, grid in dict.fromkeys((r["sampler"], r["grid"]) for r in result["rows"]):
            own = [r for r in result["rows"] if (r["sampler"], r["grid"]) == (name, grid)]
            cells = {r["budget"]: value_of(r, key) for r in own}
            texts = [
                "–" if cells.get(budget) is None else f"{cells[budget]:.3g}" for budget in budgets
            ]
            if set(texts) != {"–"}:
                lines.append(f"| {name} | {grid} | " + " | ".join(texts) + " |")
        lines.append("")
    if "floor" in result:
        reference, floor = result["reference_frechet_distance"], result["floor"]
        lines.append(f"Fréchet distance of the reference {reference['value']:.3g}, ")
        lines.append(f"of real images {floor['value']:.3g}.")
    return "\n".join(lines) + "\n"


MEASURES = {"error": "Error to the reference (RMS)", "frechet_distance": "Fréchet distance"}


def value_of(row: dict[str, Any], key: str) -> float | None:
    """The number of a row; None when it has none."""
    value = row.get(key)
    return value["value"] if isinstance(value, dict) else value


def draw(result: dict[str, Any], path: Path) -> None:
    """Each sampler on its better grid: both numbers against NFE."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, (key, title) in zip(axes, MEASURES.items(), strict=True):
        for number, name in enumerate(dict.fromkeys(r["sampler"] for r in result["rows"])):
            best: dict[int, float] = {}
            for row in result["rows"]:
                value = value_of(row, key)
                if row["sampler"] == name and value is not None:
                    best[row["nfe"]] = min(value, best.get(row["nfe"], value))
            if best:
                style = {"marker": "osD^v"[number % 5], "ls": "-" if number < 10 else "--"}
                axis.plot(*zip(*sorted(best.items()), strict=True), label=name, **style)
        if key in ("frechet_distance",) and "floor" in result:
            axis.axhline(result["floor"]["value"], color="grey", ls=":", label="real images")
        axis.set(title=title, xlabel="evaluations of the network", xscale="log", yscale="log")
    axes[0].legend(fontsize=7)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
