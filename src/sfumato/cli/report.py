"""`sfumato report`: write the report of a run or a study."""

import argparse
from pathlib import Path

from sfumato.cli.options import Subparsers, add_verb


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "report",
        "write report.html for a run or a study, from the files in its directory",
        "sfumato report sfumato-demo\nsfumato report runs/fashion-mnist-ddpm",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="run or study directory")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the report and print where it is."""
    from sfumato.report.html import write_report

    print(write_report(options.directory))
