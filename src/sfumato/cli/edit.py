"""`sfumato edit`: work with images in the latent space of a trained run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.options import (
    Subparsers,
    add_output,
    add_overrides,
    add_verb,
    integer_list,
    number_list,
)

if TYPE_CHECKING:
    from sfumato.core.images import Batch
    from sfumato.data.dataset import Splits
    from sfumato.experiment.load import LoadedRun

TIMES = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb and its own verbs."""
    parser = add_verb(
        subparsers,
        "edit",
        "reconstruct, interpolate, inpaint and change images, and look at the denoising",
        "sfumato edit inpaint runs/fashion-mnist-ddpm --box 7,7,14,14\n"
        "sfumato edit interpolate runs/digits-dcgan --points 12",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    reconstruct = _add(
        verbs,
        "reconstruct",
        "trace held-out images back to noise along the ODE, and make them again",
        "sfumato edit reconstruct runs/digits-ddpm --steps 100",
    )
    _add_images(reconstruct)
    reconstruct.add_argument("--steps", type=int, default=100, help="each way (default: 100)")
    reconstruct.set_defaults(run=run_reconstruct)

    between = _add(
        verbs,
        "interpolate",
        "walk between noises, or between held-out images through their noises",
        "sfumato edit interpolate runs/digits-dcgan --points 12 --frames walk\n"
        "sfumato edit interpolate runs/digits-ddpm --between images --images 3,17 --smoothness\n"
        "sfumato edit interpolate runs/landscapes-stylegan2-ada --space w --path linear --corners",
    )
    between.add_argument("--between", choices=["noises", "images"], default="noises")
    between.add_argument("--path", choices=["spherical", "linear"], default="spherical")
    between.add_argument(
        "--space", choices=["z", "w"], default="z", help="w is StyleGAN2's (default: z)"
    )
    between.add_argument(
        "--corners", action="store_true", help="a grid between four noises instead of walks"
    )
    between.add_argument("--points", type=int, default=8, help="with both ends (default: 8)")
    between.add_argument("-n", "--number", type=int, default=4, help="walks (default: 4)")
    between.add_argument("--seed", type=int, default=0, help="of the first noise (default: 0)")
    between.add_argument(
        "--images",
        type=integer_list,
        metavar="I,J,...",
        help="positions among the held-out images, two a walk (default: two of each class)",
    )
    between.add_argument("--steps", type=int, default=100, help="of the ODE (default: 100)")
    between.add_argument(
        "--smoothness",
        action="store_true",
        help="measure steps in the feature space of the evaluation protocol",
    )
    between.add_argument(
        "--frames", type=Path, metavar="FOLDER", help="also write every image as a PNG file"
    )
    between.set_defaults(run=run_interpolate)

    truncation = _add(
        verbs,
        "truncation",
        "samples of a StyleGAN2 ever nearer to its mean w",
        "sfumato edit truncation runs/landscapes-stylegan2-ada --shares 0,0.5,0.7,1 -n 8",
    )
    truncation.add_argument(
        "--shares",
        type=number_list,
        default=[0.0, 0.25, 0.5, 0.7, 0.85, 1.0],
        metavar="PSI,PSI,...",
        help="of the distance to the mean w (default: 0,0.25,0.5,0.7,0.85,1)",
    )
    truncation.add_argument("-n", "--number", type=int, default=8, help="images (default: 8)")
    truncation.add_argument("--seed", type=int, default=0, help="of the first image (default: 0)")
    truncation.set_defaults(run=run_truncation)

    inpaint = _add(
        verbs,
        "inpaint",
        "keep a part of held-out images and find the rest (RePaint)",
        "sfumato edit inpaint runs/digits-ddpm --box 2,2,4,4 --tries 3\n"
        "sfumato edit inpaint runs/fashion-mnist-ddpm --mask hole.png --steps 50",
    )
    _add_images(inpaint)
    place = inpaint.add_mutually_exclusive_group()
    place.add_argument(
        "--box",
        type=integer_list,
        metavar="TOP,LEFT,HEIGHT,WIDTH",
        help="what to find anew, in pixels (default: the middle quarter)",
    )
    place.add_argument("--mask", type=Path, metavar="FILE", help="white is found anew")
    inpaint.add_argument("--steps", type=int, default=100, help="of the sampler (default: 100)")
    inpaint.add_argument(
        "--resamplings", type=int, default=10, help="how often each stretch is walked (default: 10)"
    )
    inpaint.add_argument(
        "--jump",
        type=int,
        metavar="STEPS",
        help="length of a stretch (default: --steps / 10)",
    )
    inpaint.add_argument("--tries", type=int, default=2, help="pictures found (default: 2)")
    inpaint.set_defaults(run=run_inpaint)

    img2img = _add(
        verbs,
        "img2img",
        "noise held-out images to an intermediate time and sample from there (SDEdit)",
        "sfumato edit img2img runs/digits-ddpm --start 0.2,0.4,0.6",
    )
    _add_images(img2img)
    img2img.add_argument(
        "--start",
        type=number_list,
        default=[0.2, 0.4, 0.6, 0.8],
        metavar="T,T,...",
        help="in (0, 1]; the later, the freer (default: 0.2,0.4,0.6,0.8)",
    )
    img2img.add_argument("--as-class", metavar="CLASS", help="sample as this class, not their own")
    img2img.set_defaults(run=run_img2img)

    strip = _add(
        verbs,
        "strip",
        "x_t and the predicted x_0 at chosen times on the way from noise",
        "sfumato edit strip runs/digits-ddpm --times 1,0.7,0.5,0.3,0.1,0 --classes 3 7",
    )
    _add_times(strip, TIMES)
    strip.add_argument("-n", "--number", type=int, default=4, help="images (default: 4)")
    strip.add_argument("--seed", type=int, default=0, help="of the first image (default: 0)")
    strip.add_argument("--classes", nargs="+", metavar="CLASS", help="names or numbers")
    strip.set_defaults(run=run_strip)

    noise = _add(
        verbs,
        "noise",
        "predicted beside true noise at chosen times, at initialization and after training",
        "sfumato edit noise runs/digits-ddpm --times 0.05,0.2,0.5,1 -n 2",
    )
    _add_images(noise)
    _add_times(noise, [0.02, 0.1, 0.3, 0.5, 0.7, 1.0])
    noise.set_defaults(run=run_noise)


def _add(verbs: Subparsers, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    parser = add_verb(verbs, name, summary, example)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory")
    add_overrides(parser)
    add_output(parser, f"the picture, .png, .svg or .pdf (default: RUN/edits/{name}.png)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.set_defaults(edit=name)
    return parser


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--number", type=int, default=8, help="images (default: 8)")
    parser.add_argument(
        "--images",
        type=integer_list,
        metavar="I,J,...",
        help="positions among the held-out images (default: one of each class in turn)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")


def _add_times(parser: argparse.ArgumentParser, default: list[float]) -> None:
    parser.add_argument(
        "--times",
        type=number_list,
        default=default,
        metavar="T,T,...",
        help=f"0 is the image, 1 the noise (default: {','.join(f'{t:g}' for t in default)})",
    )


def _load(options: argparse.Namespace) -> "tuple[LoadedRun, Splits, Path]":
    """The run, its data, and where the picture goes."""
    from sfumato.core.errors import RunError
    from sfumato.experiment.score_run import load_with_data

    for name in ("number", "steps", "resamplings", "tries"):
        if getattr(options, name, 1) < 1:
            raise RunError(f"--{name} must be at least 1, got {getattr(options, name)}")
    path = options.output or options.run_dir / "edits" / f"{options.edit}.png"
    return *load_with_data(options.run_dir, options.overrides), path


def _batch(options: argparse.Namespace, loaded: "LoadedRun", splits: "Splits") -> "Batch":
    """The held-out images asked for."""
    from sfumato.explore.plots import one_of_each_class
    from sfumato.explore.real_images import diffusion_of, real_batch

    chosen = options.images or one_of_each_class(splits.held_out, options.number)
    return real_batch(diffusion_of(loaded, options.edit), splits.held_out, chosen)


def _print(options: argparse.Namespace, path: Path, facts: dict[str, Any]) -> None:
    import json

    facts = {"picture": str(path), **facts}
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        values = value if isinstance(value, list) else [value]
        words = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
        print(f"{name.replace('_', ' ')}: {' '.join(words)}")


def run_reconstruct(options: argparse.Namespace) -> None:
    """Reconstruct held-out images."""
    from sfumato.explore.plots import write_reconstruction
    from sfumato.explore.real_images import diffusion_of, reconstruct_images

    loaded, splits, path = _load(options)
    batch = _batch(options, loaded, splits)
    found = reconstruct_images(diffusion_of(loaded, "reconstruct"), batch, options.steps)
    _print(options, path, write_reconstruction(found, path))


def run_interpolate(options: argparse.Namespace) -> None:
    """Walk between noises or images."""
    from sfumato.core.errors import RunError
    from sfumato.evaluation.evaluator import Evaluator
    from sfumato.explore.interpolation import (
        grid_between_noises,
        smoothness_of,
        walks_between_images,
        walks_between_noises,
    )
    from sfumato.explore.plots import write_frames, write_interpolation

    if options.between == "images" and (options.corners or options.space == "w"):
        raise RunError("--corners and --space w are about noises; leave --between images out")
    loaded, splits, path = _load(options)
    if options.corners:
        walks = grid_between_noises(
            loaded, options.points, options.path, options.seed, options.space
        )
    elif options.between == "noises":
        walks = walks_between_noises(
            loaded, options.number, options.points, options.path, options.seed, options.space
        )
    else:
        walks = walks_between_images(
            loaded,
            splits.held_out,
            options.images,
            options.number,
            options.points,
            options.path,
            options.steps,
        )
    smooth, features = None, ""
    if options.smoothness:
        network = Evaluator(splits, loaded.experiment.evaluation).network
        features = f"{network.name} {network.digest[:16]}"
        smooth = [smoothness_of(walk, network) for walk in walks]
    facts = write_interpolation(walks, smooth, path, features)
    if options.frames is not None:
        facts["frames"] = str(write_frames(walks, options.frames))
    _print(options, path, facts)


def run_truncation(options: argparse.Namespace) -> None:
    """Samples at several truncations."""
    from sfumato.explore.interpolation import truncation_sweep
    from sfumato.explore.plots import write_truncation

    loaded, _, path = _load(options)
    seeds = range(options.seed, options.seed + options.number)
    label = 0 if loaded.model.num_classes else None
    found = truncation_sweep(loaded.model, seeds, options.shares, label)
    _print(options, path, write_truncation(options.shares, found, path))


def run_inpaint(options: argparse.Namespace) -> None:
    """Inpaint held-out images."""
    from sfumato.explore.plots import write_inpainting
    from sfumato.explore.real_images import box_mask, diffusion_of, file_mask, inpaint

    loaded, splits, path = _load(options)
    batch, model = _batch(options, loaded, splits), diffusion_of(loaded, "inpaint")
    _, height, width = model.image_shape
    if options.mask is not None:
        known = file_mask(model.image_shape, options.mask)
    else:
        middle = [height // 4, width // 4, -(-height // 2), -(-width // 2)]
        known = box_mask(model.image_shape, options.box or middle)
    seeds = [options.seed + k * len(batch) for k in range(options.tries)]
    jump = max(1, options.steps // 10) if options.jump is None else options.jump
    found = [
        inpaint(
            model,
            batch,
            known,
            steps=options.steps,
            resamplings=options.resamplings,
            jump=jump,
            seed=seed,
        )
        for seed in seeds
    ]
    _print(options, path, write_inpainting(batch, known, found, path))


def run_img2img(options: argparse.Namespace) -> None:
    """Change held-out images."""
    import torch

    from sfumato.core.errors import RunError
    from sfumato.core.images import Batch
    from sfumato.explore.plots import write_image_to_image
    from sfumato.explore.real_images import diffusion_of, image_to_image
    from sfumato.speed.sampling import class_numbers

    loaded, splits, path = _load(options)
    batch, model = _batch(options, loaded, splits), diffusion_of(loaded, "img2img")
    if options.as_class is not None:
        if batch.labels is None:
            raise RunError(f"run {loaded.directory} is unconditional; leave --as-class out")
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
    seeds = range(options.seed, options.seed + options.number)
    labels = labels_for(loaded, options.number, options.classes)
    frames = strip(diffusion_of(loaded, "strip"), labels, seeds, options.times)
    _print(options, path, write_strip(frames, path))


def run_noise(options: argparse.Namespace) -> None:
    """Show predicted beside true noise."""
    from sfumato.explore.plots import write_noise
    from sfumato.explore.real_images import noise_before_and_after

    loaded, splits, path = _load(options)
    batch = _batch(options, loaded, splits)
    before, after = noise_before_and_after(loaded, batch, options.times, options.seed)
    _print(options, path, write_noise(before, after, path))
