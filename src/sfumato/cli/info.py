"""`sfumato info`: the recipes, and the size of a recipe's networks."""

import argparse

from sfumato.cli.options import Subparsers, add_overrides, add_verb


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "info",
        "list the recipes, or describe the networks of one",
        "sfumato info\nsfumato info fashion-mnist-ddpm\nsfumato info digits-ddpm --json",
    )
    parser.add_argument("recipe", nargs="?", help="name of a recipe, or path of a .toml file")
    add_overrides(parser)
    parser.add_argument("--depth", type=int, default=3, help="levels of modules (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the list or the table."""
    from rich.console import Console
    from rich.table import Table

    from sfumato.run.experiment import load_experiment, recipe_names

    if options.recipe is None:
        from sfumato.study.read import study_names

        print("recipes:", *recipe_names(), sep="\n  ")
        print("studies:", *study_names(), sep="\n  ")
        return
    from sfumato.run.info import describe

    rows = describe(load_experiment(options.recipe, options.overrides), options.depth)
    if options.json:
        import json

        print(json.dumps(rows, indent=2))
        return
    table = Table("module", "type", "output", "dtype", title=options.recipe)
    table.add_column("parameters", justify="right")
    table.add_column("buffers", justify="right")
    for row in rows:
        counts = (f"{row['parameters']:,}", f"{row['buffers']:,}")
        table.add_row(row["module"], row["type"], row["output"], row["dtype"], *counts)
    Console().print(table)
