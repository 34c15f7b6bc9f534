"""The command line: one file per verb. Heavy imports happen inside the verbs: help is instant."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from sfumato.cli import data, demo, edit, evaluate, info, plot, report, sample, study, train
from sfumato.core.errors import Interrupted, SfumatoError

VERBS = (demo, train, sample, evaluate, study, report, edit, plot, data, info)

_STORAGE_REMEDIES = {
    errno.ENOSPC: "free some space or choose another place with --output",
    errno.EDQUOT: "free some of your quota or choose another place with --output",
    errno.EROFS: "choose a writable place with --output",
    errno.EACCES: "change its permissions or choose another place with --output",
    errno.EPERM: "change its permissions or choose another place with --output",
}


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of all verbs, or of one."""
    parser = argparse.ArgumentParser(
        prog="sfumato",
        description="Train, sample, evaluate and fairly compare image generative models.",
        epilog="Begin with: sfumato demo",
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        if only is None or verb.__name__.endswith(f".{only}"):
            verb.add_parser(subparsers)
    return parser


class _Version(argparse.Action):
    """Prints the version; reads the package's metadata only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> None:
        from importlib.metadata import version

        parser.exit(message=f"sfumato {version('sfumato')}\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse. Overrides may stand between and after options, where argparse loses them."""
    given = sys.argv[1:] if arguments is None else arguments
    names = [verb.__name__.rpartition(".")[2] for verb in VERBS]
    parser = build_parser(given[0] if given and given[0] in names else None)
    options, rest = parser.parse_known_args(arguments)
    strange = [word for word in rest if "=" not in word or word.startswith("-")]
    if strange or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        options.overrides += rest
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status.

    0: success; 2: a user's mistake; 130: interrupted; 141: the reader of the output has gone.
    """
    options = _parse(arguments)
    try:
        status: int = options.run(options) or 0
        sys.stdout.flush()
        return status
    except SfumatoError as error:
        print(f"sfumato: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 2
    except BrokenPipeError:  # a reader such as `head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141  # 128 + SIGPIPE, as of a program that the signal ends
    except OSError as error:
        if error.errno not in _STORAGE_REMEDIES:
            raise
        remedy = _STORAGE_REMEDIES[error.errno]
        where = f" {error.filename}" if error.filename else ""
        print(f"sfumato: cannot write{where}: {error.strerror}; {remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sfumato: stopped", file=sys.stderr)
        return 130
