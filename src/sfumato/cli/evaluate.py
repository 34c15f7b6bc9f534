"""`sfumato evaluate`: score a run's samples, or any set of images against any other."""

import argparse
from pathlib import Path

from sfumato.cli.image_sets import arrange, compare_sets, draw_floors
from sfumato.cli.options import Subparsers, add_output, add_overrides, add_verb


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "evaluate",
        "score a run's samples, or any images against any others, beside the floor",
        "sfumato evaluate runs/fashion-mnist-ddpm\n"
        "sfumato evaluate runs/digits-ddpm model.sampler.steps=20 --json\n"
        "sfumato evaluate runs/digits-ddpm evaluation.num_images=500\n"
        "sfumato evaluate runs/digits-ddpm --metrics nll --nll-images 256\n"
        "sfumato evaluate generated/ photos/ --json\n"
        "sfumato evaluate samples.npz cifar10:train --features inception\n"
        "sfumato evaluate runs/a runs/b evaluation.num_images=2000\n"
        "sfumato evaluate fashion-mnist --floor-curve -o floor.png",
    )
    parser.add_argument(
        "run_dir",
        type=Path,
        metavar="A",
        help="run directory; with B also a folder, an .npz or a data set such as cifar10:train",
    )
    parser.add_argument(
        "reference",
        nargs="?",
        metavar="B",
        help="any of these: A is scored against it; without B a run is scored by its own protocol",
    )
    add_overrides(parser)
    parser.add_argument(
        "--metrics",
        metavar="NAME,NAME",
        help="what to compute instead of evaluation.metrics; nll: bits per dimension of training "
        "and held-out images side by side (diffusion models)",
    )
    parser.add_argument(
        "--nll-images", type=int, default=64, metavar="N", help="of each split (default: 64)"
    )
    parser.add_argument(
        "--nll-tolerance",
        type=float,
        default=1e-4,
        metavar="X",
        help="of the ODE solver (default: 1e-4)",
    )
    parser.add_argument(
        "--nll-trace",
        choices=["hutchinson", "exact"],
        default="hutchinson",
        help="of the ODE's Jacobian: estimated, or one backward pass a pixel (default: hutchinson)",
    )
    parser.add_argument(
        "--features",
        metavar="NAME",
        help="inception (FID), efficientnet-lite0, classifier, dinov2, or any model of timm",
    )
    parser.add_argument(
        "--floor-curve",
        action="store_true",
        help="of a data set A: real against real images over N, as a table, picture and JSON",
    )
    add_output(
        parser,
        "the picture of --floor-curve (default: floor-curve.png), or that of suspected copies "
        "of A B, if there are any (default: memorization.png)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """A run by its own protocol, A against B, or a floor curve."""
    arrange(options)
    if options.floor_curve:
        draw_floors(options)
    elif options.reference is not None:
        compare_sets(options)
    else:
        score_a_run(options)


def score_a_run(options: argparse.Namespace) -> None:
    """Sample, score, write RUN/evaluation.json and print the tables; write RUN/nll.json."""
    import json
    from typing import Any

    from sfumato.experiment.score_run import evaluate_run
    from sfumato.report.terminal import print_run

    names = options.metrics.split(",") if options.metrics else []
    scores = [name for name in names if name != "nll"]
    result: dict[str, Any] = {}
    if scores or not names:
        named = [f"evaluation.metrics={json.dumps(scores)}"] if scores else []
        result = evaluate_run(options.run_dir, [*options.overrides, *named])
        if not options.json:
            print_run(options.run_dir)
    if "nll" in names:
        from sfumato.experiment.score_run import load_with_data
        from sfumato.explore.nll import LikelihoodConfig, nll, nll_table

        config = LikelihoodConfig(
            num_images=options.nll_images,
            tolerance=options.nll_tolerance,
            trace=options.nll_trace,
        )
        result["nll"] = nll(*load_with_data(options.run_dir, options.overrides), config)
        if not options.json:
            print(nll_table(result["nll"]))
    if options.json:
        print(json.dumps(result, indent=2))
