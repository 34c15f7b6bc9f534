"""`sfumato sample`: draw images from a trained run."""

import argparse
from pathlib import Path

from sfumato.cli.options import Subparsers, add_output, add_overrides, add_verb


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "sample",
        "draw images from a trained run: PNG files, npz, a grid, an animation",
        "sfumato sample runs/fashion-mnist-ddpm\n"
        "sfumato sample runs/digits-ddpm -n 1000 --output digits.npz\n"
        "sfumato sample runs/digits-ddpm --classes 3 7 --animation denoising.webp\n"
        "sfumato sample runs/digits-ddpm model.sampler.steps=20 --grid twenty-steps.png\n"
        "sfumato sample runs/digits-ddpm --autoguide runs/small --scale 2\n"
        "sfumato sample runs/digits-ddpm --classifier runs/digits-noisy-classifier --scale 2",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory")
    add_overrides(parser)
    parser.add_argument("-n", "--number", type=int, default=64, help="images (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the first image (default: 0)")
    parser.add_argument(
        "--classes", nargs="+", metavar="CLASS", help="names or numbers (default: all in turn)"
    )
    parser.add_argument(
        "--batch-size", type=int, help="images at once (default: what fits into memory)"
    )
    add_output(parser, "folder of PNG files, or a .npz file (default: RUN/generated)")
    parser.add_argument("--grid", type=Path, metavar="FILE.png", help="also write one picture")
    parser.add_argument(
        "--animation",
        type=Path,
        metavar="FILE.webp",
        help="also write how the first 64 images emerge (.webp, .gif or .png)",
    )
    guides = parser.add_mutually_exclusive_group()
    guides.add_argument(
        "--autoguide",
        type=Path,
        metavar="RUN",
        help="guide away from what a weaker run says, or a .safetensors file of a run, such as an "
        "early checkpoint",
    )
    guides.add_argument(
        "--classifier", type=Path, metavar="RUN", help="guide by a run of a noisy_classifier"
    )
    parser.add_argument("--scale", type=float, metavar="X", help="of that guidance (default: 2)")
    parser.add_argument(
        "--interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="noise levels sigma / alpha between which it acts (default: all)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Sample and write the files asked for."""
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
        number=options.number,
        first_seed=options.seed,
        classes=options.classes,
        batch_size=options.batch_size,
        output=options.output or options.run_dir / "generated",
        grid=options.grid,
        animation=options.animation,
        guide=guide,
    ):
        print(path)
