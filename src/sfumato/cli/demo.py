"""`sfumato demo`: the main job, from data to a report, in a few minutes."""

import argparse
from pathlib import Path

from sfumato.cli.options import Subparsers, add_output, add_verb


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "demo",
        "compare two diffusion models and a GAN on the embedded digits, in under 5 minutes",
        "sfumato demo\nsfumato demo --output somewhere/else",
    )
    add_output(parser, "study directory (default: sfumato-demo)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the study `demo`."""
    from sfumato.cli.study import run_and_print
    from sfumato.study.launchers import InProcess
    from sfumato.study.read import load_study

    output = options.output or Path("sfumato-demo")
    run_and_print(load_study("demo", []), output, InProcess())
