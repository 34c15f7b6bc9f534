"""`sfumato sample`: images from a trained run."""

import argparse
from pathlib import Path

from sfumato.cli.options import (
    Subparsers,
    add_classes,
    add_num_images,
    add_output,
    add_run,
    add_seed,
    add_verb,
)


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "sample",
        "sample images from a trained run as PNG files, .npz, a grid or an animation",
        "sfumato sample runs/fashion-mnist-ddpm\n"
        "sfumato sample runs/digits-ddpm -n 1000 --output digits.npz\n"
        "sfumato sample runs/digits-ddpm --classes 3 7 --animation denoising.webp\n"
        "sfumato sample runs/digits-ddpm model.sampler.steps=20 --grid twenty-steps.png\n"
        "sfumato sample runs/digits-ddpm --autoguide runs/small --scale 2\n"
        "sfumato sample runs/digits-ddpm --classifier runs/digits-noisy-classifier --scale 2",
    )
    add_run(parser)
    add_num_images(parser, 64)
    add_seed(parser)
    add_classes(parser)
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images at a time (default: as memory allows)"
    )
    add_output(parser, "a folder for PNG files, or an .npz file (default: RUN/generated)")
    parser.add_argument("--grid", type=Path, metavar="FILE.png", help="also write a grid")
    parser.add_argument(
        "--animation",
        type=Path,
        metavar="FILE.webp",
        help="also animate the sampling of the first 64 images (.webp, .gif or .png)",
    )
    guides = parser.add_mutually_exclusive_group()
    guides.add_argument(
        "--autoguide",
        type=Path,
        metavar="RUN",
        help="guide away from a weaker run, or from a .safetensors file such as an early "
        "checkpoint",
    )
    guides.add_argument(
        "--classifier", type=Path, metavar="RUN", help="guide by a trained noisy_classifier"
    )
    parser.add_argument("--scale", type=float, metavar="X", help="guidance scale (default: 2)")
    parser.add_argument(
        "--interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide at noise levels sigma / alpha in this range only (default: all)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Sample and write the files."""
    from sfumato.explore.samples import Guide, write_samples

    guide = None
    given = (options.autoguide, options.classifier, options.scale, options.interval)
    if any(value is not None for value in given):
        guide = Guide(
            autoguide=options.autoguide,
            classifier=options.classifier,
            scale=2.0 if options.scale is None else options.scale,
            interval=tuple(options.interval) if options.interval else None,
        )
    for path in write_samples(
        options.run_dir,
        options.overrides,
        number=options.num_images,
        first_seed=options.seed,
        classes=options.classes,
        batch_size=options.batch_size,
        output=options.output or options.run_dir / "generated",
        grid=options.grid,
        animation=options.animation,
        guide=guide,
    ):
        print(path)
