"""Options of the command line that several verbs share."""

import argparse
import json
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


def add_overrides(
    parser: argparse.ArgumentParser, example: str = "training.learning_rate=2e-4"
) -> None:
    """`key=value` arguments; with a default, argparse does not call them required."""
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help=f"change any value of the config, for example {example}",
    )


def add_output(parser: argparse.ArgumentParser, meaning: str) -> None:
    """`--output PATH`."""
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help=meaning)


def add_run(parser: argparse.ArgumentParser) -> None:
    """`RUN KEY=VALUE ...`."""
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory")
    add_overrides(parser, "model.sampler.steps=20")


def add_option(
    parser: argparse.ArgumentParser, *flags: str, default: int | list[float], help: str
) -> None:
    """A number, or numbers separated by commas; the help ends with the default."""
    is_list = isinstance(default, list)
    shown = ",".join(f"{value:g}" for value in default) if isinstance(default, list) else default
    parser.add_argument(
        *flags,
        type=number_list if is_list else int,
        default=default,
        metavar="X,X,..." if is_list else "N",
        help=f"{help} (default: {shown})",
    )


def add_num_images(parser: argparse.ArgumentParser, default: int) -> None:
    """`--num-images N`."""
    flags = ("-n", "--num-images", "--number")
    add_option(parser, *flags, default=default, help="number of images")


def add_seed(parser: argparse.ArgumentParser, meaning: str = "seed of the first image") -> None:
    """`--seed N`."""
    add_option(parser, "--seed", default=0, help=meaning)


def add_classes(parser: argparse.ArgumentParser) -> None:
    """`--classes CLASS CLASS ...`."""
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="names or numbers of classes (default: all in turn)",
    )


def add_flag(parser: argparse.ArgumentParser, flag: str, help: str) -> None:
    """An option without a value."""
    parser.add_argument(flag, action="store_true", help=help)


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    add_flag(parser, "--json", "print JSON")


def print_json(value: Any) -> None:
    """Print `value` as indented JSON."""
    print(json.dumps(value, indent=2))


def number_list(text: str) -> list[float]:
    """The type of an option such as `0.1,0.3`."""
    return [float(part) for part in text.split(",")]


def integer_list(text: str) -> list[int]:
    """The type of an option such as `3,17`."""
    return [int(part) for part in text.split(",")]
