"""`sfumato info`: the recipes, and the size of a recipe's networks."""

import argparse

from sfumato.cli.options import (
    Subparsers,
    add_json,
    add_option,
    add_overrides,
    add_verb,
    print_json,
)


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "info",
        "list the recipes, or describe the networks of one recipe",
        "sfumato info\nsfumato info fashion-mnist-ddpm\nsfumato info digits-ddpm --json",
    )
    parser.add_argument("recipe", nargs="?", help="name of a recipe, or path of a .toml file")
    add_overrides(parser, "model.network.channels=32")
    add_option(parser, "--depth", default=3, help="levels of modules")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the list or the table."""
    from rich.console import Console
    from rich.table import Table

    from sfumato.experiment.experiment import load_experiment, recipe_names

    if options.recipe is None:
        from sfumato.study.read import study_names

        print("recipes:", *recipe_names(), sep="\n  ")
        print("studies:", *study_names(), sep="\n  ")
        return
    from sfumato.core.numbers import short_count
    from sfumato.explore.describe import describe_model

    found = describe_model(load_experiment(options.recipe, options.overrides), options.depth)
    if options.json:
        print_json(found.to_json())
        return
    table = Table(title=options.recipe, box=None, padding=(0, 2, 0, 0))
    table.add_column("module", no_wrap=True)
    # in a narrow terminal, names of types and formats fold, and numbers stay whole
    table.add_column("type", overflow="fold")
    table.add_column("output", no_wrap=True)
    table.add_column("dtype", overflow="fold")
    for title in ("parameters", "buffers", "MFLOP"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in found.rows:
        indent, _, name = row.module.rpartition(".")
        level = indent.count(".") + bool(indent)
        counts = (f"{row.parameters:,}", f"{row.buffers:,}", f"{row.flops / 1e6:,.1f}")
        table.add_row("  " * level + name, row.type, row.output, row.dtype, *counts)
    Console().print(table)
    memory = found.memory
    parts = ("weights", "gradients", "optimizer", "averages", "activations")
    shares = ", ".join(f"{name} {short_count(getattr(memory, name))}B" for name in parts)
    print(
        f"one evaluation    {short_count(found.evaluation_flops)}FLOP per image; sampling takes "
        f"{found.nfe} evaluations",
        f"a training step   {short_count(found.training_flops)}FLOP per image",
        f"memory            {short_count(memory.total)}B for a batch of {memory.batch}:",
        f"                  {shares};",
        "                  an estimate from tensor sizes (train --dry-run measures)",
        sep="\n",
    )
