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
        "sfumato evaluate runs/digits-ddpm evaluation.num_images=500",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory")
    add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Sample, score, write RUN/evaluation.json and print the table."""
    import json

    from sfumato.report.console import print_table
    from sfumato.run.score import evaluate_run

    evaluation = evaluate_run(options.run_dir, options.overrides)
    if options.json:
        print(json.dumps(evaluation, indent=2))
    else:
        print_table(options.run_dir)
