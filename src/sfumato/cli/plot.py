"""`sfumato plot`: look at noise schedules and at what they do to images."""

import argparse
from pathlib import Path

from sfumato.cli.options import Subparsers, add_output, add_overrides, add_verb, number_list

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
        "alpha-bar, beta and log-SNR of any set of schedules",
        "sfumato plot schedules linear_beta cosine sigmoid edm rectified_flow\n"
        "sfumato plot schedules linear_beta linear_beta:num_steps=4000 -o steps.svg\n"
        "sfumato plot schedules sigmoid sigmoid:temperature=0.5,start=-4\n"
        "sfumato plot schedules cosine zero_terminal_snr:base.kind=cosine",
    )
    schedules.add_argument(
        "schedules",
        nargs="+",
        metavar="KIND[:KEY=VALUE,...]",
        help="a schedule, with changes of its values",
    )
    add_output(schedules, "the picture, .png, .svg or .pdf (default: schedules.png)")
    schedules.set_defaults(run=draw_schedules)

    forward = add_verb(
        verbs,
        "forward",
        "what a recipe's schedule does to real images at chosen times",
        "sfumato plot forward digits-ddpm --times 0.1,0.3,0.5\n"
        "sfumato plot forward fashion-mnist-ddpm -n 5 model.schedule.kind=sigmoid -o sigmoid.png",
    )
    forward.add_argument(
        "recipe", help="name of a recipe, path of a .toml file, or a run directory"
    )
    add_overrides(forward)
    forward.add_argument(
        "--times",
        type=number_list,
        default=TIMES,
        metavar="T,T,...",
        help="in [0, 1]; 0 is the image, 1 the noise (default: 0,0.1,...,1)",
    )
    forward.add_argument("-n", "--number", type=int, default=4, help="images (default: 4)")
    add_output(forward, "the picture, .png, .svg or .pdf (default: forward.png)")
    forward.set_defaults(run=draw_forward)


def draw_schedules(options: argparse.Namespace) -> None:
    """Draw the schedules."""
    from sfumato.explore import plots

    path = options.output or Path("schedules.png")
    plots.plot_schedules({text: plots.schedule_of(text) for text in options.schedules}, path)
    print(path)


def draw_forward(options: argparse.Namespace) -> None:
    """Draw the forward process on held-out images of the recipe's data."""
    import numpy as np

    from sfumato.core.config import override, parse, to_mapping
    from sfumato.core.errors import ConfigError
    from sfumato.data.catalogue import load
    from sfumato.experiment.experiment import Experiment, load_experiment
    from sfumato.experiment.load import read_experiment
    from sfumato.explore import plots

    if Path(options.recipe).is_dir():
        recorded = to_mapping(read_experiment(Path(options.recipe)))
        experiment = parse(Experiment, override(recorded, options.overrides), options.recipe)
    else:
        experiment = load_experiment(options.recipe, options.overrides)
    schedule = getattr(experiment.model, "schedule", None)
    if schedule is None:
        raise ConfigError(
            f"recipe {options.recipe} has a model of kind {experiment.model.kind!r}, which adds no "
            "noise to images; name a recipe of a diffusion model"
        )
    if options.number < 1:
        raise ConfigError(f"--number must be at least 1, got {options.number}")
    held_out = load(experiment.data).held_out
    chosen = np.array(plots.one_of_each_class(held_out, options.number))
    path = options.output or Path("forward.png")
    plots.plot_forward(schedule, held_out.take(chosen), options.times, path)
    print(path)
