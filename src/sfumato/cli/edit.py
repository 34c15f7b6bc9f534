"""`sfumato edit`: work with images in the latent space of a trained run."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.options import (
    Subparsers,
    add_classes,
    add_flag,
    add_json,
    add_num_images,
    add_option,
    add_output,
    add_run,
    add_seed,
    add_verb,
    integer_list,
    print_json,
)

if TYPE_CHECKING:
    from sfumato.core.images import Batch
    from sfumato.data.dataset import Splits
    from sfumato.diffusion.diffusion_model import DiffusionModel
    from sfumato.experiment.load import LoadedRun

TIMES = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb and its own verbs."""
    parser = add_verb(
        subparsers,
        "edit",
        "reconstruct, interpolate, inpaint or change images, and watch the denoising",
        "sfumato edit inpaint runs/fashion-mnist-ddpm --box 7,7,14,14\n"
        "sfumato edit interpolate runs/digits-dcgan --points 12",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    reconstruct = _add(
        verbs,
        run_reconstruct,
        "map held-out images to noise along the ODE, and back to images",
        "sfumato edit reconstruct runs/digits-ddpm --steps 100",
    )
    _add_images(reconstruct)
    add_option(reconstruct, "--steps", default=100, help="ODE steps in each direction")

    between = _add(
        verbs,
        run_interpolate,
        "interpolate between noises, or between held-out images through their noises",
        "sfumato edit interpolate runs/digits-dcgan --points 12 --frames walk\n"
        "sfumato edit interpolate runs/digits-ddpm --between images --images 3,17 --smoothness\n"
        "sfumato edit interpolate runs/landscapes-stylegan2-ada --space w --path linear --corners",
    )
    between.add_argument(
        "--between", choices=["noises", "images"], default="noises", help="(default: noises)"
    )
    between.add_argument(
        "--path", choices=["spherical", "linear"], default="spherical", help="(default: spherical)"
    )
    between.add_argument(
        "--space", choices=["z", "w"], default="z", help="w needs a StyleGAN2 (default: z)"
    )
    add_flag(between, "--corners", "draw one grid between four noises, not walks")
    add_option(between, "--points", default=8, help="images per walk, both ends included")
    add_option(between, "-n", "--num-walks", "--number", default=4, help="number of walks")
    add_seed(between, "seed of the first noise")
    _add_positions(between, "two per walk (default: two of each class)")
    add_option(between, "--steps", default=100, help="ODE steps")
    add_flag(
        between,
        "--smoothness",
        "measure the steps of each walk in the feature space of the evaluation protocol",
    )
    between.add_argument(
        "--frames", type=Path, metavar="FOLDER", help="also write every image as a PNG file"
    )

    truncation = _add(
        verbs,
        run_truncation,
        "sweep the truncation of a StyleGAN2",
        "sfumato edit truncation runs/landscapes-stylegan2-ada --psi 0,0.5,0.7,1 -n 8",
    )
    psi = [0.0, 0.25, 0.5, 0.7, 0.85, 1.0]
    add_option(
        truncation, "--psi", "--shares", default=psi, help="0 is the mean w, 1 no truncation"
    )
    add_num_images(truncation, 8)
    add_seed(truncation)

    inpaint = _add(
        verbs,
        run_inpaint,
        "keep one part of held-out images and generate the rest (RePaint)",
        "sfumato edit inpaint runs/digits-ddpm --box 2,2,4,4 --tries 3\n"
        "sfumato edit inpaint runs/fashion-mnist-ddpm --mask hole.png --steps 50",
    )
    _add_images(inpaint)
    place = inpaint.add_mutually_exclusive_group()
    place.add_argument(
        "--box",
        type=integer_list,
        metavar="TOP,LEFT,HEIGHT,WIDTH",
        help="generate this box, in pixels (default: the middle quarter)",
    )
    place.add_argument(
        "--mask", type=Path, metavar="FILE", help="generate the white pixels of this picture"
    )
    add_option(inpaint, "--steps", default=100, help="sampler steps")
    add_option(inpaint, "--resamplings", default=10, help="passes over each jump")
    inpaint.add_argument(
        "--jump", type=int, metavar="STEPS", help="jump length (default: --steps / 10)"
    )
    add_option(inpaint, "--tries", default=2, help="results per image")

    img2img = _add(
        verbs,
        run_img2img,
        "noise held-out images to an intermediate time and sample from there (SDEdit)",
        "sfumato edit img2img runs/digits-ddpm --start 0.2,0.4,0.6",
    )
    _add_images(img2img)
    starts = [0.2, 0.4, 0.6, 0.8]
    add_option(img2img, "--start", default=starts, help="in (0, 1]; later times change more")
    img2img.add_argument(
        "--as-class", metavar="CLASS", help="sample as this class, not as their own"
    )

    strip = _add(
        verbs,
        run_strip,
        "show x_t and the predicted x_0 at chosen times of sampling",
        "sfumato edit strip runs/digits-ddpm --times 1,0.7,0.5,0.3,0.1,0 --classes 3 7",
    )
    add_option(strip, "--times", default=TIMES, help="0 is the image, 1 the noise")
    add_num_images(strip, 4)
    add_seed(strip)
    add_classes(strip)

    noise = _add(
        verbs,
        run_noise,
        "compare predicted and true noise at chosen times, before and after training",
        "sfumato edit noise runs/digits-ddpm --times 0.05,0.2,0.5,1 -n 2",
    )
    _add_images(noise)
    times = [0.02, 0.1, 0.3, 0.5, 0.7, 1.0]
    add_option(noise, "--times", default=times, help="0 is the image, 1 the noise")


def _add(
    verbs: Subparsers, run: Callable[[argparse.Namespace], None], summary: str, example: str
) -> argparse.ArgumentParser:
    """A verb of `edit`, named as the function `run_NAME` that runs it."""
    name = run.__name__.removeprefix("run_")
    parser = add_verb(verbs, name, summary, example)
    add_run(parser)
    add_output(parser, f"the picture, .png, .svg or .pdf (default: RUN/edits/{name}.png)")
    add_json(parser)
    parser.set_defaults(edit=name, run=run)
    return parser


def _add_images(parser: argparse.ArgumentParser) -> None:
    add_num_images(parser, 8)
    _add_positions(parser, "(default: one of each class in turn)")
    add_seed(parser, "seed of the noise")


def _add_positions(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument(
        "--images",
        type=integer_list,
        metavar="I,J,...",
        help=f"positions among the held-out images, {meaning}".replace(", (", " ("),
    )


def _load(options: argparse.Namespace) -> "tuple[LoadedRun, Splits, Path]":
    """The run, its data, and where the picture goes."""
    from sfumato.core.errors import RunError
    from sfumato.experiment.score_run import load_with_data

    for name in ("num_images", "num_walks", "steps", "resamplings", "tries"):
        if (value := getattr(options, name, 1)) < 1:
            raise RunError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    path = options.output or options.run_dir / "edits" / f"{options.edit}.png"
    return *load_with_data(options.run_dir, options.overrides), path


def _load_images(
    options: argparse.Namespace,
) -> "tuple[LoadedRun, DiffusionModel, Batch, Path]":
    """The run, its diffusion model, the held-out images to edit, and the path of the picture."""
    from sfumato.explore.plots import one_of_each_class
    from sfumato.explore.real_images import diffusion_of, real_batch

    loaded, splits, path = _load(options)
    chosen = options.images or one_of_each_class(splits.held_out, options.num_images)
    model = diffusion_of(loaded, options.edit)
    return loaded, model, real_batch(model, splits.held_out, chosen), path


def _print(options: argparse.Namespace, path: Path, facts: dict[str, Any]) -> None:
    facts = {"picture": str(path), **facts}
    if options.json:
        print_json(facts)
        return
    for name, value in facts.items():
        values = value if isinstance(value, list) else [value]
        words = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
        print(f"{name.replace('_', ' ')}: {' '.join(words)}")


def run_reconstruct(options: argparse.Namespace) -> None:
    """Map held-out images to noise and back."""
    from sfumato.explore.plots import write_reconstruction
    from sfumato.explore.real_images import reconstruct_images

    _, model, batch, path = _load_images(options)
    found = reconstruct_images(model, batch, options.steps)
    _print(options, path, write_reconstruction(found, path))


def run_interpolate(options: argparse.Namespace) -> None:
    """Interpolate between noises or images."""
    from sfumato.core.errors import RunError
    from sfumato.core.images import to_uint8
    from sfumato.evaluation.reference import HeldOut
    from sfumato.explore.interpolation import (
        Walk,
        grid_between_noises,
        smoothness,
        walks_between_images,
        walks_between_noises,
    )
    from sfumato.explore.plots import write_frames, write_interpolation

    if options.between == "images" and (options.corners or options.space == "w"):
        raise RunError("--corners and --space w need noises: leave out --between images")
    loaded, splits, path = _load(options)
    walk = Walk(options.points, options.path, options.space)
    if options.corners:
        walks = grid_between_noises(loaded.model, walk, options.seed)
    elif options.between == "noises":
        walks = walks_between_noises(loaded.model, options.num_walks, walk, options.seed)
    else:
        walks = walks_between_images(
            loaded, splits.held_out, options.images, options.num_walks, walk, options.steps
        )
    smooth, features = None, ""
    if options.smoothness:
        network = HeldOut(splits, loaded.experiment.evaluation).network
        features = f"{network.name} {network.digest[:16]}"
        smooth = [smoothness(network(to_uint8(images).cpu())) for images in walks]
    facts = write_interpolation(walks, smooth, path, features)
    if options.frames is not None:
        facts["frames"] = str(write_frames(walks, options.frames))
    _print(options, path, facts)


def run_truncation(options: argparse.Namespace) -> None:
    """Sample at several truncations."""
    from sfumato.explore.interpolation import truncation_sweep
    from sfumato.explore.plots import write_truncation

    loaded, _, path = _load(options)
    seeds = range(options.seed, options.seed + options.num_images)
    label = 0 if loaded.model.num_classes else None
    found = truncation_sweep(loaded.model, seeds, options.psi, label)
    _print(options, path, write_truncation(options.psi, found, path))


def run_inpaint(options: argparse.Namespace) -> None:
    """Inpaint held-out images."""
    from sfumato.explore.plots import write_inpainting
    from sfumato.explore.real_images import box_mask, file_mask, inpaint

    _, model, batch, path = _load_images(options)
    _, height, width = model.image_shape
    if options.mask is not None:
        known = file_mask(model.image_shape, options.mask)
    else:
        middle = [height // 4, width // 4, -(-height // 2), -(-width // 2)]
        known = box_mask(model.image_shape, options.box or middle)
    jump = max(1, options.steps // 10) if options.jump is None else options.jump
    walk = {"steps": options.steps, "resamplings": options.resamplings, "jump": jump}
    seeds = [options.seed + k * len(batch) for k in range(options.tries)]
    found = [inpaint(model, batch, known, **walk, seed=seed) for seed in seeds]
    _print(options, path, write_inpainting(batch, known, found, path))


def run_img2img(options: argparse.Namespace) -> None:
    """Change held-out images."""
    import torch

    from sfumato.core.errors import RunError
    from sfumato.core.images import Batch
    from sfumato.explore.plots import write_image_to_image
    from sfumato.explore.real_images import image_to_image
    from sfumato.speed.sampling import class_numbers

    loaded, model, batch, path = _load_images(options)
    if options.as_class is not None:
        if batch.labels is None:
            raise RunError(f"run {loaded.directory} is unconditional; leave out --as-class")
        (number,) = class_numbers([options.as_class], loaded.data["class_names"])
        batch = Batch(batch.images, torch.full_like(batch.labels, number))
    found = [image_to_image(model, batch, start, options.seed) for start in options.start]
    _print(options, path, write_image_to_image(batch, options.start, found, path))


def run_strip(options: argparse.Namespace) -> None:
    """Show the reverse process."""
    from sfumato.explore.plots import write_strip
    from sfumato.explore.real_images import diffusion_of, strip
    from sfumato.explore.samples import labels_for

    loaded, _, path = _load(options)
    seeds = range(options.seed, options.seed + options.num_images)
    labels = labels_for(loaded, options.num_images, options.classes)
    frames = strip(diffusion_of(loaded, "strip"), labels, seeds, options.times)
    _print(options, path, write_strip(frames, path))


def run_noise(options: argparse.Namespace) -> None:
    """Show predicted beside true noise."""
    from sfumato.explore.plots import write_noise
    from sfumato.explore.real_images import noise_before_and_after

    loaded, _, batch, path = _load_images(options)
    before, after = noise_before_and_after(loaded, batch, options.times, options.seed)
    _print(options, path, write_noise(before, after, path))
