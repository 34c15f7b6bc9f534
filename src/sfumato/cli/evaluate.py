"""`sfumato evaluate`: score the samples of a run against held-out images."""

import argparse
from pathlib import Path

from sfumato.cli.options import Subparsers, add_overrides, add_verb


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "evaluate",
        "score a run's samples against held-out images, beside the floor",
        "sfumato evaluate runs/fashion-mnist-ddpm\n"
        "sfumato evaluate runs/digits-ddpm model.sampler.steps=20 --json\n"
        "sfumato evaluate runs/digits-ddpm evaluation.num_images=500\n"
        "sfumato evaluate runs/digits-ddpm --metrics nll --nll-images 256",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory")
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
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Sample, score, write RUN/evaluation.json and print the table; write RUN/nll.json."""
    import json
    from typing import Any

    from sfumato.report.console import print_table
    from sfumato.run.score import evaluate_run

    names = options.metrics.split(",") if options.metrics else []
    scores = [name for name in names if name != "nll"]
    result: dict[str, Any] = {}
    if scores or not names:
        named = [f"evaluation.metrics={json.dumps(scores)}"] if scores else []
        result = evaluate_run(options.run_dir, [*options.overrides, *named])
        if not options.json:
            print_table(options.run_dir)
    if "nll" in names:
        from sfumato.run.nll import LikelihoodConfig, nll, nll_table
        from sfumato.run.score import load_with_data

        config = LikelihoodConfig(num_images=options.nll_images, tolerance=options.nll_tolerance)
        result["nll"] = nll(*load_with_data(options.run_dir, options.overrides), config)
        if not options.json:
            print(nll_table(result["nll"]))
    if options.json:
        print(json.dumps(result, indent=2))
