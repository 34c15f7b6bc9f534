"""`sfumato study`: train, score and compare several models."""

import argparse
from pathlib import Path

from sfumato.cli.options import Subparsers, add_output, add_overrides, add_verb


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "study",
        "train several models under one budget, score them alike and compare them",
        "sfumato study demo\n"
        "sfumato study my-study.toml --output studies/mine\n"
        "sfumato study demo budget.images=50000 seeds=[0,1]\n"
        "(the same command again continues an interrupted study)",
    )
    parser.add_argument("study", help="name of a study, or path of a .toml file")
    add_overrides(parser)
    add_output(parser, "study directory (default: studies/NAME)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the study, print its table and the path of its report."""
    from sfumato.study.study import load_study

    study = load_study(options.study, options.overrides)
    run_and_print(study, options.output or Path("studies") / study.name)


def run_and_print(study: object, directory: Path) -> None:
    """Run a study in `directory`, write its report, print the table."""
    from sfumato.core.console import say
    from sfumato.report.console import print_table
    from sfumato.report.html import write_report
    from sfumato.study.launch import run_study
    from sfumato.study.study import Study

    assert isinstance(study, Study)
    run_study(study, directory, tell=say)
    report = write_report(directory)
    print_table(directory)
    print(f"report: {report}")
