"""`sfumato train`: train one model."""

import argparse
from pathlib import Path

from sfumato.cli.options import Subparsers, add_flag, add_output, add_overrides, add_verb


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "train",
        "train one model from a recipe",
        "sfumato train fashion-mnist-ddpm\n"
        "sfumato train digits-ddpm training.learning_rate=2e-4 --output runs/slow\n"
        "sfumato train my-recipe.toml --dry-run\n"
        "sfumato train fashion-mnist-ddpm --resume",
    )
    parser.add_argument("recipe", help="name of a recipe, or path of a .toml file")
    add_overrides(parser)
    add_output(parser, "run directory (default: runs/NAME)")
    add_flag(parser, "--resume", "continue an interrupted run")
    add_flag(parser, "--force", "resume even if the config or the images changed")
    add_flag(
        parser,
        "--dry-run",
        "print the config, the number of parameters, and the expected time and memory",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train, or estimate what training takes."""
    from sfumato.core import distributed
    from sfumato.core.console import say
    from sfumato.experiment.experiment import load_experiment

    experiment = load_experiment(options.recipe, options.overrides)
    if options.dry_run:
        from sfumato.experiment.training_run import training_forecast

        print(training_forecast(experiment))
        return
    from sfumato.experiment.training_run import train

    distributed.start()
    run_dir: Path = options.output or Path("runs") / experiment.name
    finished = train(experiment, run_dir, resume=options.resume, force=options.force, log=say)
    if distributed.is_main():
        summary = finished.summary
        print(
            f"{run_dir}: {summary['images_seen']:,} images in {summary['train_seconds']:.0f} s "
            f"({summary['images_per_second']:,.0f} img/s), {summary['parameters']:,} parameters"
        )
        if experiment.model.kind == "noisy_classifier":
            print(f"next:    sfumato sample RUN --classifier {run_dir} --scale 2")
            return
        print(f"samples: {run_dir / 'training.webp'}")
        print(f"next:    sfumato sample {run_dir}")
        print(f"         sfumato evaluate {run_dir}")
    distributed.stop()
