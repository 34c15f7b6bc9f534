"""`sfumato study`: train, score and compare several models."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.options import Subparsers, add_flag, add_output, add_overrides, add_verb

if TYPE_CHECKING:
    from sfumato.study.launchers import Launcher
    from sfumato.study.study import Study


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "study",
        "train several models under one budget, score them by one protocol and compare them",
        "sfumato study demo\n"
        "sfumato study schedules --preset cpu\n"
        "sfumato study my-study.toml --output studies/mine\n"
        "sfumato study demo budget.images=50000 'seeds=[0,1]' --jobs 2\n"
        "sfumato study bedrooms --launcher ray --cpus 8 --gpus 1\n"
        "sfumato study cats --dry-run --preset cpu\n"
        "(repeat the command to continue an interrupted study; finished runs are skipped)",
    )
    parser.add_argument(
        "study", help="name of a study (sfumato info lists them), or path of a .toml file"
    )
    add_overrides(parser, "budget.images=50000")
    parser.add_argument(
        "--preset", default="", metavar="NAME",
        help="a preset of the study's file; cpu ends within the stated hours on 2 cores",
    )  # fmt: skip
    add_flag(parser, "--dry-run", "print the arms, budget and runs, then exit")
    parser.add_argument(
        "--launcher", choices=("local", "ray"), default="local",
        help="where the runs happen: on this machine (default), or on a Ray cluster",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="local: number of runs at once; they share the cores and GPUs (default: 1)",
    )  # fmt: skip
    parser.add_argument("--address", help="ray: the cluster (default: RAY_ADDRESS, or a local one)")
    parser.add_argument("--cpus", type=float, default=1, help="ray: cores of a run (default: 1)")
    parser.add_argument(
        "--gpus", type=float, help="ray: GPUs of a run (default: 1 where the cluster has any)"
    )
    add_output(parser, "study directory (default: studies/NAME, or studies/NAME-PRESET)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the study, print its table and the path of its report."""
    from sfumato.study.read import load_study

    study = load_study(options.study, options.overrides, options.preset)
    if options.dry_run:
        from sfumato.study.forecast import dry_run

        print(dry_run(study))
        return
    name = f"{study.name}-{options.preset}" if options.preset else study.name
    run_and_print(study, options.output or Path("studies") / name, launcher(options))


def launcher(options: argparse.Namespace) -> "Launcher":
    """Where the runs happen, by the options."""
    from sfumato.study.launchers import InProcess, Processes, RayCluster

    if options.launcher == "ray":
        return RayCluster(options.address, options.cpus, options.gpus)
    return InProcess() if options.jobs == 1 else Processes(options.jobs)


def run_and_print(study: "Study", directory: Path, launcher: "Launcher") -> None:
    """Run a study in `directory`, write its report, print the table."""
    from sfumato.core.console import say
    from sfumato.report.html import write_report
    from sfumato.report.terminal import print_table
    from sfumato.study.launch import run_study

    for line in study.shrunk:
        say(f"preset {study.preset}: {line}")
    run_study(study, directory, say, launcher)
    report = write_report(directory)
    print_table(directory)
    print(f"report: {report}")
