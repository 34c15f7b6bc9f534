"""`sfumato plot`: noise schedules, and their effect on images."""

import argparse
from pathlib import Path

from sfumato.cli.options import (
    Subparsers,
    add_num_images,
    add_option,
    add_output,
    add_overrides,
    add_verb,
)

TIMES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb and its own verbs."""
    parser = add_verb(
        subparsers,
        "plot",
        "draw noise schedules, or the forward process on real images",
        "sfumato plot schedules linear_beta cosine sigmoid -o schedules.png\n"
        "sfumato plot forward digits-ddpm --times 0.1,0.3,0.5,0.7,0.9",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    schedules = add_verb(
        verbs,
        "schedules",
        "compare schedules by alpha-bar, beta and log-SNR",
        "sfumato plot schedules linear_beta cosine sigmoid edm rectified_flow\n"
        "sfumato plot schedules linear_beta linear_beta:num_steps=4000 -o steps.svg\n"
        "sfumato plot schedules sigmoid sigmoid:temperature=0.5,start=-4\n"
        "sfumato plot schedules cosine zero_terminal_snr:base.kind=cosine",
    )
    schedules.add_argument(
        "schedules",
        nargs="+",
        metavar="KIND[:KEY=VALUE,...]",
        help="a schedule, perhaps with other values",
    )
    add_output(schedules, "the picture, .png, .svg or .pdf (default: schedules.png)")
    schedules.set_defaults(run=run_schedules)

    forward = add_verb(
        verbs,
        "forward",
        "show real images under the noise of a recipe's schedule",
        "sfumato plot forward digits-ddpm --times 0.1,0.3,0.5\n"
        "sfumato plot forward fashion-mnist-ddpm -n 5 model.schedule.kind=sigmoid -o sigmoid.png",
    )
    forward.add_argument(
        "recipe", help="name of a recipe, path of a .toml file, or a run directory"
    )
    add_overrides(forward, "model.schedule.kind=cosine")
    add_option(forward, "--times", default=TIMES, help="0 is the image, 1 the noise")
    add_num_images(forward, 4)
    add_output(forward, "the picture, .png, .svg or .pdf (default: forward.png)")
    forward.set_defaults(run=run_forward)


def run_schedules(options: argparse.Namespace) -> None:
    """Draw the schedules."""
    from sfumato.explore import plots

    path = options.output or Path("schedules.png")
    plots.plot_schedules({text: plots.schedule_of(text) for text in options.schedules}, path)
    print(path)


def run_forward(options: argparse.Namespace) -> None:
    """Draw the forward process on held-out images of the recipe's data."""
    import numpy as np

    from sfumato.core.errors import ConfigError
    from sfumato.data.catalogue import load
    from sfumato.experiment.experiment import load_experiment
    from sfumato.experiment.load import read_experiment
    from sfumato.explore import plots

    if Path(options.recipe).is_dir():
        experiment = read_experiment(Path(options.recipe), options.overrides)
    else:
        experiment = load_experiment(options.recipe, options.overrides)
    schedule = getattr(experiment.model, "schedule", None)
    if schedule is None:
        raise ConfigError(
            f"recipe {options.recipe} has a model of kind {experiment.model.kind!r}, which has no "
            "noise schedule; name a recipe of a diffusion model"
        )
    if options.num_images < 1:
        raise ConfigError(f"--num-images must be at least 1, got {options.num_images}")
    held_out = load(experiment.data).held_out
    chosen = np.array(plots.one_of_each_class(held_out, options.num_images))
    path = options.output or Path("forward.png")
    plots.plot_forward(schedule, held_out.take(chosen), options.times, path)
    print(path)
