"""Options that several verbs share."""

import argparse
from pathlib import Path
from typing import Any

Subparsers = Any
"""argparse names the type of `add_subparsers()` privately."""


def add_verb(
    subparsers: Subparsers, name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    """A parser for one verb, whose help ends with an example."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary[0].lower() + summary[1:],
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """`key=value` arguments."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="change any value of the config, for example training.learning_rate=2e-4",
    )


def add_output(parser: argparse.ArgumentParser, meaning: str) -> None:
    """`--output PATH`."""
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help=meaning)


def number_list(text: str) -> list[float]:
    """`0.1,0.3` as numbers; an argparse type."""
    return [float(part) for part in text.split(",")]


def integer_list(text: str) -> list[int]:
    """`3,17` as whole numbers; an argparse type."""
    return [int(part) for part in text.split(",")]
