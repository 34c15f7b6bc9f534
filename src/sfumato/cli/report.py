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
        "sfumato report sfumato-demo\n"
        "sfumato report runs/fashion-mnist-ddpm\n"
        "sfumato report studies/cats --publish docs/cats",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="run or study directory")
    parser.add_argument(
        "--publish", type=Path, metavar="PATH",
        help="also copy report.md, its pictures and the numbers to PATH, without weights",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the report and print where it is."""
    from sfumato.report.html import publish, write_report

    if options.publish is not None:
        print(publish(options.directory, options.publish))
        return
    print(write_report(options.directory))
