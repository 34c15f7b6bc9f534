"""Compares all samplers on a trained run: quality against evaluations of the network.

    python benchmarks/samplers.py runs/fashion-mnist-ddpm --output docs/results/samplers/fashion

Every sampler starts from the same noise, at the same noise level, and is tried on every grid. Each
has two numbers. The error is the root mean square distance of its images from those of a long,
precise solution of the same ODE. On the grid with the least error, the Fréchet distance to held-out
images is measured too; it includes the errors of the network itself. Writes
OUTPUT.md, OUTPUT.json and OUTPUT.png.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from sfumato.core.errors import ConfigError
from sfumato.core.files import write_bytes, write_json
from sfumato.core.images import Images, Labels, to_uint8
from sfumato.core.noise import Noise
from sfumato.diffusion.denoiser import NoClip
from sfumato.diffusion.diffusion_model import DiffusionModel
from sfumato.diffusion.grid import (
    SIGMA_MAX,
    AnyGrid,
    KarrasGrid,
    LogSnrGrid,
    TrailingGrid,
    UniformGrid,
)
from sfumato.diffusion.samplers.ancestral import AncestralSampler, DDIMSampler
from sfumato.diffusion.samplers.auto import AutoSampler
from sfumato.diffusion.samplers.deis import DEISSampler
from sfumato.diffusion.samplers.dpm_solver import (
    DPMSolverMultistepSampler,
    DPMSolverSinglestepSampler,
)
from sfumato.diffusion.samplers.heun import EulerSampler, HeunSampler
from sfumato.diffusion.samplers.ipndm import IPNDMSampler, PNDMSampler
from sfumato.diffusion.samplers.sampler import Sampler
from sfumato.diffusion.samplers.unipc import UniPCSampler
from sfumato.evaluation.image_sources import ArrayImages
from sfumato.evaluation.reference import HeldOut
from sfumato.evaluation.score import score
from sfumato.experiment.score_run import load_with_data
from sfumato.explore.plots import save_figure

NFE = (5, 6, 8, 10, 15, 20, 50)
GRIDS: dict[str, AnyGrid] = {
    "uniform": UniformGrid(sigma_max=SIGMA_MAX),
    "trailing": TrailingGrid(sigma_max=SIGMA_MAX),
    "log_snr": LogSnrGrid(),
    "karras": KarrasGrid(),
}
"""They all start at one noise level, so that all samplers follow one path of the ODE."""
REFERENCE_STEPS = 1000
STOCHASTIC = {"ancestral": "uniform", "dpm++ 2m sde": "karras"}
"""Samplers that do not follow the ODE, so that they have no error; and the grid of their score."""

Make = Callable[[int, AnyGrid], Sampler]
SAMPLERS: dict[str, Make] = {
    "ddim": lambda nfe, grid: DDIMSampler(steps=nfe, grid=grid, clip=NoClip()),
    "euler": lambda nfe, grid: EulerSampler(steps=nfe, grid=grid),
    "heun": lambda nfe, grid: HeunSampler(steps=(nfe + 1) // 2, grid=grid),
    "dpm++ 2s": lambda nfe, grid: DPMSolverSinglestepSampler(steps=(nfe + 1) // 2, grid=grid),
    "dpm++ 3s": lambda nfe, grid: DPMSolverSinglestepSampler(
        steps=(nfe + 2) // 3, order=3, grid=grid
    ),
    "dpm++ 2m": lambda nfe, grid: DPMSolverMultistepSampler(steps=nfe, grid=grid),
    "dpm++ 3m": lambda nfe, grid: DPMSolverMultistepSampler(steps=nfe, order=3, grid=grid),
    "dpm++ 3m, halved": lambda nfe, grid: DPMSolverMultistepSampler(
        steps=nfe, order=3, halved_curvature=True, grid=grid
    ),
    "unipc-2": lambda nfe, grid: UniPCSampler(steps=nfe, grid=grid),
    "unipc-3": lambda nfe, grid: UniPCSampler(steps=nfe, order=3, grid=grid),
    "deis t": lambda nfe, grid: DEISSampler(steps=nfe, basis="t", grid=grid),
    "deis rho": lambda nfe, grid: DEISSampler(steps=nfe, basis="rho", grid=grid),
    "deis log rho": lambda nfe, grid: DEISSampler(steps=nfe, basis="log_rho", grid=grid),
    "ipndm-2": lambda nfe, grid: IPNDMSampler(steps=nfe, order=2, grid=grid),
    "ipndm-3": lambda nfe, grid: IPNDMSampler(steps=nfe, order=3, grid=grid),
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
    parser.add_argument("--images", type=int, default=500, help="for a distance (default: 500)")
    parser.add_argument("--error-images", type=int, default=32, help="for an error (default: 32)")
    parser.add_argument("--nfe", type=int, nargs="+", default=list(NFE))
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--reference-steps", type=int, default=REFERENCE_STEPS)
    parser.add_argument("--no-frechet", action="store_true", help="the error alone")
    parser.add_argument("--output", type=Path, default=Path("samplers"), metavar="STEM")
    options = parser.parse_args(arguments)
    loaded, splits = load_with_data(options.run_dir, [])
    model = loaded.model
    if not isinstance(model, DiffusionModel):
        raise SystemExit(f"{options.run_dir} is no diffusion model; it has no samplers to compare")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    rows = errors(
        model, candidates(model, options.nfe, options.grids), options.error_images, options
    )
    result = {"run": options.run_dir.name, "rows": rows, "error_images": options.error_images}
    result["reference"] = f"Heun, {options.reference_steps} steps"
    write(result, options.output)
    if not options.no_frechet:
        config = replace(loaded.experiment.evaluation, num_images=options.images)
        evaluator = HeldOut(splits, replace(config, metrics=("frechet_distance",)))
        result["images"] = options.images
        result["floor"] = evaluator.floors["frechet_distance"].to_mapping()
        chosen = best_grids(rows)
        for row in rows:
            if chosen[row["sampler"]] == row["grid"]:
                sampler = make(row["sampler"], row["grid"], row["budget"])
                x_0 = sample(model, sampler, evaluator.labels, options.images)
                source = ArrayImages(to_uint8(x_0), evaluator.labels)
                distance = score(source, evaluator, by_class=False).scores["frechet_distance"]
                row["frechet_distance"] = distance.to_mapping()
                print(row, flush=True)
                write(result, options.output)
    print(options.output.with_suffix(".md").read_text())


def errors(
    model: DiffusionModel,
    cases: Sequence[tuple[str, str, int]],
    images: int,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """The root mean square distance to the reference of each sampler, grid and budget."""
    labels = torch.arange(images) % model.num_classes if model.num_classes else None
    precise = HeunSampler(steps=options.reference_steps)
    began = time.perf_counter()
    reference = sample(model, precise, labels, images)
    print(f"reference: {precise.nfe} evaluations, {time.perf_counter() - began:.0f} s", flush=True)
    rows = []
    for name, grid, budget in cases:
        sampler = make(name, grid, budget)
        row: dict[str, Any] = {"sampler": name, "grid": grid, "budget": budget, "nfe": sampler.nfe}
        if name not in STOCHASTIC:
            x_0 = sample(model, sampler, labels, images)
            row["error"] = (x_0 - reference).square().mean().sqrt().item()
        rows.append(row)
        print(row, flush=True)
    return rows


def best_grids(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """For each sampler the grid with the least error, in the geometric mean over the budgets."""
    found: dict[str, str] = dict(STOCHASTIC)
    for name in dict.fromkeys(row["sampler"] for row in rows if "error" in row):
        own = [row for row in rows if row["sampler"] == name]
        means = {
            grid: math.prod(r["error"] for r in own if r["grid"] == grid)
            for grid in dict.fromkeys(r["grid"] for r in own)
        }
        found[name] = min(means, key=lambda grid: means[grid])
    return found


def make(name: str, grid: str, nfe: int) -> Sampler:
    """The sampler of that name with at most this many evaluations."""
    return AutoSampler(steps=nfe) if name == "auto" else SAMPLERS[name](nfe, GRIDS[grid])


def candidates(
    model: DiffusionModel, budgets: Sequence[int], grids: Sequence[str]
) -> list[tuple[str, str, int]]:
    """The samplers, grids and budgets that can run on the model."""
    found: list[tuple[str, str, int]] = []
    for budget in budgets:
        found.append(("auto", "auto", budget))
        for name in SAMPLERS:
            for grid in [STOCHASTIC[name]] if name in STOCHASTIC else grids:
                try:
                    sampler = make(name, grid, budget)
                    sampler.check(model.denoiser)
                except (ValueError, ConfigError):  # too few steps, or no meaning on this schedule
                    continue
                if sampler.nfe <= budget:
                    found.append((name, grid, budget))
    return found


@torch.no_grad()
def sample(model: DiffusionModel, sampler: Sampler, labels: Labels | None, count: int) -> Images:
    """Images from the noise of seeds 0 to count - 1, by another sampler than the config's."""
    schedule = model.config.schedule
    chosen = sampler.for_model(model.denoiser)
    std = schedule.start_std(chosen.grid(schedule, chosen.steps)[0])
    parts = []
    for start in range(0, count, 256):
        noise = Noise(range(start, min(start + 256, count)))
        x_1 = noise.normal(*model.image_shape) * std
        some = None if labels is None else labels[start : start + 256]
        parts.append(sampler(model.denoiser, x_1, some, noise).clamp(-1, 1))
    return torch.cat(parts)


def write(result: dict[str, Any], stem: Path) -> None:
    """The numbers, the tables and the picture of the results so far."""
    write_json(stem.with_suffix(".json"), result)
    write_bytes(stem.with_suffix(".md"), to_markdown(result).encode())
    draw(result, stem.with_suffix(".png"))


def to_markdown(result: dict[str, Any]) -> str:
    """A table for each number: one row per sampler and grid, one column per budget."""
    budgets = sorted({row["budget"] for row in result["rows"]})
    lines = [f"Run {result['run']}; reference: {result['reference']}.", ""]
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
        lines.append(f"Real images: {result['floor']['value']:.3g}.")
    lines.append(
        f"Images: {result['error_images']} an error, {result.get('images', 0)} a distance."
    )
    return "\n".join(lines) + "\n"


MEASURES = {"error": "Error to the reference (RMS)", "frechet_distance": "Fréchet distance"}


def value_of(row: dict[str, Any], key: str) -> float | None:
    """The number of a row; None when it has none."""
    value = row.get(key)
    return value["value"] if isinstance(value, dict) else value


def draw(result: dict[str, Any], path: Path) -> None:
    """Each sampler on its best grid at each NFE: the numbers that were measured against NFE."""
    measured = {k: v for k, v in MEASURES.items() if any(k in row for row in result["rows"])}
    figure = Figure(figsize=(3 + 5 * len(measured), 5), layout="constrained")
    axes = figure.subplots(1, len(measured), squeeze=False)[0]
    for axis, (key, title) in zip(axes, measured.items(), strict=True):
        colours = colormaps["tab20"].colors
        for number, name in enumerate(dict.fromkeys(r["sampler"] for r in result["rows"])):
            best: dict[int, float] = {}
            for row in result["rows"]:
                value = value_of(row, key)
                if row["sampler"] == name and value is not None:
                    best[row["nfe"]] = min(value, best.get(row["nfe"], value))
            if best:
                style = {"marker": "osD^v"[number % 5], "color": colours[number % 20]}
                axis.plot(*zip(*sorted(best.items()), strict=True), label=name, **style)
        if key == "frechet_distance" and "floor" in result:
            axis.axhline(result["floor"]["value"], color="grey", ls=":", label="real images")
        axis.set(title=title, xlabel="evaluations of the network", xscale="log", yscale="log")
        axis.set_xticks(NFE, [str(n) for n in NFE])
        axis.minorticks_off()
    handles = {  # some samplers have one of the two numbers alone
        name: handle
        for axis in axes
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
