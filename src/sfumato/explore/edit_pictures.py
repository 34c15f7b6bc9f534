"""What the verbs of `sfumato edit` write: pictures of edits, and the numbers beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.images import Batch, Images, to_uint8
from sfumato.core.pictures import image_grid, save_animation
from sfumato.diffusion.edit import NoiseEstimate, Smoothness, Snapshot
from sfumato.explore.edits import Mask
from sfumato.explore.inversion import Reconstruction
from sfumato.explore.plots import TableRow, draw_table, number

NOISE_RANGE = 3.0
"""Noise is shown from -3 to 3 standard deviations."""


def columns(images: Images) -> list[Float[Tensor, "1 C H W"]]:
    """The images one by one."""
    return [images[k : k + 1] for k in range(len(images))]


def shown_noise(noise: Images) -> Images:
    """Standard normal noise within the range of images."""
    return (noise / NOISE_RANGE).clamp(-1, 1)


def shown_state(x_t: Images) -> Images:
    """x_t within the range of images, whatever the scale of the schedule."""
    return x_t / x_t.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)


def write_reconstruction(found: Reconstruction, path: Path) -> dict[str, Any]:
    """Images, their noise, and what the flow makes of it; returns the errors."""
    errors, stds = found.rms_error.tolist(), found.noise_std.tolist()
    rows: list[TableRow] = [
        ("image", columns(found.images), None),
        ("noise", columns(shown_noise(found.noise)), [f"std {std:.3f}" for std in stds]),
        ("again", columns(found.again), [f"RMS {error:.4f}" for error in errors]),
    ]
    draw_table(rows, path)
    mean = sum(errors) / len(errors)
    return {"rms_error": errors, "mean_rms_error": mean, "noise_std": stds}


def write_interpolation(
    paths: Sequence[Images], smooth: Sequence[Smoothness] | None, path: Path, features: str
) -> dict[str, Any]:
    """A row for each path; an animation of all beside it, ending in .webp; the smoothness."""
    rows: list[TableRow] = [("", columns(images), None) for images in paths]
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
        for point, image in enumerate(to_uint8(images).cpu()):
            picture = image_grid(image[None].numpy(), 1, scale=1, padding=0)
            picture.save(inside / f"{point:03d}.png")
    return folder


def write_truncation(
    shares: Sequence[float], found: Sequence[Images], path: Path
) -> dict[str, Any]:
    """A row for each share; returns how varied the images of each are.

    The spread is the standard deviation over images, averaged over pixels, in units of [-1, 1].
    """
    rows: list[TableRow] = [
        (f"psi {share:g}", columns(images), None)
        for share, images in zip(shares, found, strict=True)
    ]
    draw_table(rows, path)
    spread = [float(images.std(0, correction=0).mean()) for images in found]
    return {"truncation": list(shares), "spread": spread}


def write_inpainting(
    batch: Batch, known: Mask, found: Sequence[Images], path: Path
) -> dict[str, Any]:
    """Images, what is kept of them, and one row for each time they were painted."""
    kept = known.to(batch.images)
    rows: list[TableRow] = [
        ("image", columns(batch.images), None),
        ("kept", columns(batch.images * kept), None),
        *((f"found {k + 1}", columns(images), None) for k, images in enumerate(found)),
    ]
    draw_table(rows, path)
    changed = [((images - batch.images) * kept).abs().max().item() for images in found]
    away = [_rms(images, batch.images, 1 - kept) for images in found]
    return {"largest_change_of_kept_pixels": max(changed), "rms_change_of_found_pixels": away}


def write_image_to_image(
    batch: Batch, starts: Sequence[float], found: Sequence[Images], path: Path
) -> dict[str, Any]:
    """Images and a row for each start, from the nearest to the freest."""
    rows: list[TableRow] = [("image", columns(batch.images), None)]
    rows += [
        (f"from t = {t:g}", columns(images), None) for t, images in zip(starts, found, strict=True)
    ]
    draw_table(rows, path)
    changes = [_rms(images, batch.images, torch.ones(())) for images in found]
    return {"start": list(starts), "rms_change": changes}


def write_strip(frames: Sequence[Snapshot], path: Path) -> dict[str, Any]:
    """Two rows for each image, x_t and the predicted x_0, and a column a time."""
    titles = [f"t = {number(frame.t)}" for frame in frames]
    rows: list[TableRow] = []
    for k in range(len(frames[0].x_t)):
        states = [shown_state(frame.x_t[k : k + 1]) for frame in frames]
        rows.append(("$x_t$", states, titles if k == 0 else None))
        rows.append((r"$\hat x_0$", [frame.x_0[k : k + 1] for frame in frames], None))
    draw_table(rows, path)
    return {"times": [frame.t for frame in frames]}


def write_noise(
    before: Sequence[NoiseEstimate], after: Sequence[NoiseEstimate], path: Path
) -> dict[str, Any]:
    """For each image x_t, the true noise and both predictions, under their standard deviations."""
    times = [f"t = {number(row.t)}" for row in after]
    rows: list[TableRow] = []
    for k in range(len(after[0].x_t)):
        one = slice(k, k + 1)
        rows.append(("$x_t$", [shown_state(row.x_t[one]) for row in after], times))
        for name, images, stds in (
            ("true", [row.eps for row in after], [row.eps_std for row in after]),
            ("initial", [r.predicted for r in before], [r.predicted_std for r in before]),
            ("trained", [r.predicted for r in after], [r.predicted_std for r in after]),
        ):
            words = [f"std {std[k].item():.3f}" for std in stds]
            rows.append((name, [shown_noise(image[one]) for image in images], words))
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
