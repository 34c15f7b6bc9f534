"""Pictures of noise schedules, and tables of images with words beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from matplotlib.figure import Figure
from torch import Tensor

from sfumato.core.config import component, override, parse
from sfumato.core.errors import ConfigError
from sfumato.core.files import atomic_path
from sfumato.core.images import Batch, Images, UInt8Images, from_uint8, to_uint8, within_range
from sfumato.core.noise import Noise
from sfumato.core.numbers import significant
from sfumato.core.pictures import image_grid, save_animation, to_pil
from sfumato.data.dataset import Dataset
from sfumato.diffusion.editing import NoiseEstimate, Snapshot
from sfumato.diffusion.noise_schedule import NoiseSchedule
from sfumato.diffusion.schedules import Schedule
from sfumato.explore.interpolation import Smoothness
from sfumato.explore.real_images import Mask, Reconstruction

CONTINUOUS_STEPS = 1000
"""Steps in which a continuous schedule is drawn, and for which its betas are given."""
FORMATS = (".png", ".svg", ".pdf")
Row = Float64[Tensor, " N"]


@component
class _Named:
    """A schedule under a key, so that a wrong kind is reported by that name."""

    schedule: Schedule


def schedule_of(text: str) -> NoiseSchedule:
    """The schedule that `KIND` or `KIND:key=value,key=value` describes.

    Raises:
        ConfigError: no such kind or key; the message names the nearest valid one.
    """
    kind, _, options = text.partition(":")
    mapping = override({"schedule": {"kind": kind}}, _assignments(options))
    schedule: NoiseSchedule = parse(_Named, mapping, source=f"schedule {text!r}").schedule
    return schedule


def _assignments(options: str) -> list[str]:
    return [f"schedule.{option}" for option in options.split(",") if option]


@dataclass(frozen=True)
class ScheduleCurves:
    """The curves of a schedule, from data to noise.

    Args:
        t: times k / T, k = 1..T.
        alpha_bar: alpha^2 after scaling to alpha^2 + sigma^2 = 1, so that all schedules compare.
        beta: the share of the variance that the step from (k - 1) / T to k / T renews. For a
            continuous schedule this depends on the T in which it is drawn.
        log_snr: log(alpha^2 / sigma^2).
    """

    t: Row
    alpha_bar: Row
    beta: Row
    log_snr: Row


def schedule_curves(schedule: NoiseSchedule) -> ScheduleCurves:
    """The curves of a schedule: at its own steps, or at 1000 when it is continuous.

    Source: Ho et al. 2020, eq. 4 for alpha-bar; beta = 1 - alpha-bar_t / alpha-bar_{t-1}.
    """
    T = CONTINUOUS_STEPS if schedule.table is None else schedule.table.num_steps
    times = torch.arange(T + 1, dtype=torch.float64) / T
    log_snr = schedule.log_snr(times)
    tau = -torch.expm1(log_snr[1:] - log_snr[:-1])
    beta = (-log_snr[1:]).sigmoid() * tau
    return ScheduleCurves(times[1:], log_snr[1:].sigmoid(), beta, log_snr[1:])


def plot_schedules(schedules: Mapping[str, NoiseSchedule], path: Path) -> None:
    """Draw alpha-bar, beta and log-SNR of schedules, by name, side by side.

    Raises:
        ConfigError: no schedule, or another suffix than .png, .svg or .pdf.
    """
    if not schedules:
        raise ConfigError("there is no schedule to draw; name at least one, such as linear_beta")
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    for name, schedule in schedules.items():
        curves = schedule_curves(schedule)
        rows = (curves.alpha_bar, curves.beta, curves.log_snr)
        for axis, values in zip(axes, rows, strict=True):
            finite = values.isfinite()
            axis.plot(curves.t[finite].numpy(), values[finite].numpy(), label=name)
    titles = (r"$\bar\alpha_t$: share of the data", r"$\beta_t$ of a step", "log-SNR")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
        axis.set_xlabel("t (0 = data, 1 = noise)")
        axis.grid(alpha=0.3)
    axes[1].set_yscale("log")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)


def forward_images(
    schedule: NoiseSchedule, x_0: Images, times: Sequence[float], seed: int = 0
) -> list[Images]:
    """x_t of images at each time, all from the same noise.

    Args:
        x_0: images in [-1, 1].
        times: in [0, 1].
        seed: of the first image's noise.
    Returns:
        For each time the images, scaled to alpha^2 + sigma^2 = 1 and clipped to [-1, 1], so that
        those of all schedules compare.
    Raises:
        ConfigError: the schedule has no noise level at a time.
    """
    eps = Noise(range(seed, seed + len(x_0))).normal_like(x_0)
    shown = []
    for t in times:
        if not 0 <= t <= 1:
            raise ConfigError(f"time {t} is not in [0, 1]; 0 is the image and 1 the noise")
        alpha, sigma = schedule.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        size = (alpha**2 + sigma**2).sqrt()
        shown.append((alpha / size * x_0 + sigma / size * eps).clamp(-1, 1))
    return shown


def plot_forward(
    schedule: NoiseSchedule, images: UInt8Images, times: Sequence[float], path: Path
) -> None:
    """Draw the forward process on real images: one row per image, one column per time.

    Raises:
        ConfigError: as `forward_images`, or another suffix than .png, .svg or .pdf.
    """
    columns = forward_images(schedule, from_uint8(images), times)
    levels = schedule.log_snr(torch.tensor(times, dtype=torch.float64)).tolist()
    titles = [
        f"t = {t:g}\nlog-SNR {significant(level)}" for t, level in zip(times, levels, strict=True)
    ]
    rows = [
        TableRow("", [column[k] for column in columns], titles if k == 0 else ())
        for k in range(len(images))
    ]
    draw_table(rows, path)


class TableRow(NamedTuple):
    """A row of a table: its name, its images, and the words above each of them."""

    name: str
    images: Images | Sequence[Float[Tensor, "C H W"]]
    titles: Sequence[str] = ()


def draw_table(rows: Sequence[TableRow], path: Path) -> None:
    """Draw images in [-1, 1] as a table with names of the rows and words above the images.

    Raises:
        ConfigError: another suffix than .png, .svg or .pdf.
    """
    num_columns = max(len(row.images) for row in rows)
    titled = sum(bool(row.titles) for row in rows)
    height = 1.1 * len(rows) + 0.35 * titled
    figure = Figure(figsize=(1.1 * num_columns + 1.0, height), layout="constrained")
    axes = figure.subplots(len(rows), num_columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for column, axis in enumerate(line):
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
            if column < len(row.images):
                _show(axis, row.images[column])
            if column < len(row.titles):
                axis.set_title(row.titles[column], fontsize=7)
        line[0].set_ylabel(row.name, fontsize=7)
    save_figure(figure, path)


def _show(axis: Any, image: Float[Tensor, "C H W"]) -> None:
    pixels = to_uint8(image.detach().cpu()[None])[0].permute(1, 2, 0).numpy()
    grey = pixels.shape[2] == 1
    shown = pixels[..., 0] if grey else pixels
    axis.imshow(shown, cmap="gray" if grey else None, vmin=0, vmax=255, interpolation="nearest")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, atomically; its folder is made.

    Raises:
        ConfigError: another suffix than .png, .svg or .pdf.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"cannot draw into {path.name!r}; end it in one of {', '.join(FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=150)


def one_of_each_class(dataset: Dataset, count: int) -> list[int]:
    """Positions of `count` images: the first of each class in turn, then the second, and so on."""
    if dataset.labels is None:
        return list(range(min(count, len(dataset))))
    seen: dict[int, int] = {}
    ranked = []
    for position, label in enumerate(dataset.labels.tolist()):
        ranked.append((seen.get(label, 0), label, position))
        seen[label] = seen.get(label, 0) + 1
    return [position for _, _, position in sorted(ranked)[:count]]


NOISE_RANGE = 3.0
"""Noise is shown from -3 to 3 standard deviations."""


def shown_noise(noise: Float[Tensor, "*B C H W"]) -> Float[Tensor, "*B C H W"]:
    """Standard normal noise within the range of images."""
    return (noise / NOISE_RANGE).clamp(-1, 1)


def write_reconstruction(found: Reconstruction, path: Path) -> dict[str, Any]:
    """Images, their noise, and what the flow makes of it; returns the errors."""
    errors, stds = found.rms_error.tolist(), found.noise_std.tolist()
    rows = [
        TableRow("image", found.images),
        TableRow("noise", shown_noise(found.noise), [f"std {std:.3f}" for std in stds]),
        TableRow("again", found.again, [f"RMS {error:.4f}" for error in errors]),
    ]
    draw_table(rows, path)
    mean = sum(errors) / len(errors)
    return {"rms_error": errors, "mean_rms_error": mean, "noise_std": stds}


def write_interpolation(
    paths: Sequence[Images], smooth: Sequence[Smoothness] | None, path: Path, features: str
) -> dict[str, Any]:
    """A row for each path; an animation of all beside it, ending in .webp; the smoothness."""
    rows = [TableRow("", images) for images in paths]
    draw_table(rows, path)
    scale = max(1, 96 // max(paths[0].shape[2:]))
    frames = [
        image_grid(to_uint8(torch.stack(tuple(images)).cpu()).numpy(), len(paths), scale)
        for images in zip(*paths, strict=True)
    ]
    film = path.with_suffix(".webp")
    save_animation([*frames, *frames[-2:0:-1]], film, fps=8, hold_seconds=0)  # there and back
    facts: dict[str, Any] = {"animation": str(film)}
    if smooth is not None:
        facts["features"] = features
        facts["mean_step"] = [one.mean_step for one in smooth]
        facts["detour"] = [one.detour for one in smooth]
    return facts


def write_frames(paths: Sequence[Images], folder: Path) -> Path:
    """A PNG file for every image: FOLDER/PATH/POINT.png, numbered from 0."""
    for number_of_path, images in enumerate(paths):
        inside = folder / f"{number_of_path:02d}"
        inside.mkdir(parents=True, exist_ok=True)
        for point, image in enumerate(to_uint8(images).cpu().numpy()):
            to_pil(image).save(inside / f"{point:03d}.png")
    return folder


def write_truncation(
    shares: Sequence[float], found: Sequence[Images], path: Path
) -> dict[str, Any]:
    """A row for each share; returns how varied the images of each are.

    The spread is the standard deviation over images, averaged over pixels, in units of [-1, 1].
    """
    rows = [TableRow(f"psi {share:g}", images) for share, images in zip(shares, found, strict=True)]
    draw_table(rows, path)
    spread = [float(images.std(0, correction=0).mean()) for images in found]
    return {"truncation": list(shares), "spread": spread}


def write_inpainting(
    batch: Batch, known: Mask, found: Sequence[Images], path: Path
) -> dict[str, Any]:
    """Images, what is kept of them, and one row for each time they were painted."""
    kept = known.to(batch.images)
    rows = [
        TableRow("image", batch.images),
        TableRow("kept", batch.images * kept),
        *(TableRow(f"found {k + 1}", images) for k, images in enumerate(found)),
    ]
    draw_table(rows, path)
    changed = [((images - batch.images) * kept).abs().max().item() for images in found]
    away = [_rms(images, batch.images, 1 - kept) for images in found]
    return {"largest_change_of_kept_pixels": max(changed), "rms_change_of_found_pixels": away}


def write_image_to_image(
    batch: Batch, starts: Sequence[float], found: Sequence[Images], path: Path
) -> dict[str, Any]:
    """Images and a row for each start, from the closest to the freest."""
    rows = [TableRow("image", batch.images)]
    rows += [TableRow(f"from t = {t:g}", images) for t, images in zip(starts, found, strict=True)]
    draw_table(rows, path)
    changes = [_rms(images, batch.images, torch.ones(())) for images in found]
    return {"start": list(starts), "rms_change": changes}


def write_strip(frames: Sequence[Snapshot], path: Path) -> dict[str, Any]:
    """Two rows for each image, x_t and the predicted x_0, and one column per time."""
    titles = [f"t = {significant(frame.t)}" for frame in frames]
    rows: list[TableRow] = []
    for k in range(len(frames[0].x_t)):
        states = [within_range(frame.x_t)[k] for frame in frames]
        rows.append(TableRow("$x_t$", states, titles if k == 0 else ()))
        rows.append(TableRow(r"$\hat x_0$", [frame.x_0[k] for frame in frames]))
    draw_table(rows, path)
    return {"times": [frame.t for frame in frames]}


def write_noise(
    before: Sequence[NoiseEstimate], after: Sequence[NoiseEstimate], path: Path
) -> dict[str, Any]:
    """For each image x_t, the true noise and both predictions, under their standard deviations."""
    times = [f"t = {significant(row.t)}" for row in after]
    rows: list[TableRow] = []
    for k in range(len(after[0].x_t)):
        rows.append(TableRow("$x_t$", [within_range(row.x_t)[k] for row in after], times))
        for name, images, stds in (
            ("true", [row.eps for row in after], [row.eps_std for row in after]),
            ("initial", [r.predicted for r in before], [r.predicted_std for r in before]),
            ("trained", [r.predicted for r in after], [r.predicted_std for r in after]),
        ):
            words = [f"std {std[k].item():.3f}" for std in stds]
            rows.append(TableRow(name, [shown_noise(image[k]) for image in images], words))
    draw_table(rows, path)
    return {
        "times": [row.t for row in after],
        "true_std": [row.eps_std.mean().item() for row in after],
        "predicted_std_at_initialization": [row.predicted_std.mean().item() for row in before],
        "predicted_std_after_training": [row.predicted_std.mean().item() for row in after],
        "rms_error_at_initialization": [_rms(r.predicted, r.eps, torch.ones(())) for r in before],
        "rms_error_after_training": [_rms(r.predicted, r.eps, torch.ones(())) for r in after],
    }


def _rms(a: Images, b: Images, where: torch.Tensor) -> float:
    """The root mean square difference over the pixels where `where` is 1."""
    weight = where.to(a).expand_as(a)
    return (((a - b) ** 2 * weight).sum() / weight.sum()).sqrt().item()
