"""`sfumato evaluate`: score a run's samples, or any set of images against any other."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.options import (
    Subparsers,
    add_flag,
    add_json,
    add_option,
    add_output,
    add_overrides,
    add_verb,
    print_json,
)
from sfumato.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sfumato.evaluation.protocol import EvaluationConfig, Features

KINDS = ("inception", "efficientnet-lite0", "classifier", "timm")
STAND_ALONE = ["frechet_distance", "kernel_distance", "precision", "recall"]
DINOV2 = "vit_large_patch14_dinov2.lvd142m"


def add_parser(subparsers: Subparsers) -> None:
    """Add the verb."""
    parser = add_verb(
        subparsers,
        "evaluate",
        "score a run's samples, or any images against any others, beside the floor",
        "sfumato evaluate runs/fashion-mnist-ddpm\n"
        "sfumato evaluate runs/digits-ddpm model.sampler.steps=20 --json\n"
        "sfumato evaluate runs/digits-ddpm evaluation.num_images=500\n"
        "sfumato evaluate runs/digits-ddpm --metrics nll --nll-images 256\n"
        "sfumato evaluate generated/ photos/ --json\n"
        "sfumato evaluate samples.npz cifar10:train --features inception --metrics fid,kid\n"
        "sfumato evaluate runs/a runs/b evaluation.num_images=2000\n"
        "sfumato evaluate fashion-mnist --floor-curve -o floor.png",
    )
    parser.add_argument(
        "run_dir",
        type=Path,
        metavar="A",
        help="run directory; with B also a folder, an .npz or a data set such as cifar10:train",
    )
    parser.add_argument(
        "reference",
        nargs="?",
        metavar="B",
        help="any of these: A is scored against it; without B a run is scored by its own protocol",
    )
    add_overrides(parser, "evaluation.num_images=500")
    parser.add_argument(
        "--metrics",
        metavar="NAME,NAME",
        help="what to compute instead of evaluation.metrics, for example fid,kid,recall; nll: bits "
        "per dimension of training and held-out images side by side (diffusion models)",
    )
    add_option(parser, "--nll-images", default=64, help="images of each split")
    parser.add_argument(
        "--nll-tolerance",
        type=float,
        default=1e-4,
        metavar="X",
        help="tolerance of the ODE solver (default: 1e-4)",
    )
    parser.add_argument(
        "--nll-trace",
        choices=["hutchinson", "exact"],
        default="hutchinson",
        help="trace of the ODE's Jacobian: estimated, or one backward pass per pixel (default: "
        "hutchinson)",
    )
    parser.add_argument(
        "--features",
        metavar="NAME",
        help="inception (FID), efficientnet-lite0, classifier, dinov2, or any model of timm",
    )
    add_flag(
        parser,
        "--floor-curve",
        "of a data set A: real against real images over N, as a table, picture and JSON",
    )
    add_output(
        parser,
        "the picture of --floor-curve (default: floor-curve.png), or that of suspected copies "
        "of A B, if there are any (default: memorization.png)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """A run by its own protocol, A against B, or a floor curve."""
    _arrange(options)
    if options.floor_curve:
        draw_floors(options)
    elif options.reference is not None:
        compare_sets(options)
    else:
        score_a_run(options)


def _arrange(options: argparse.Namespace) -> None:
    """Sort the arguments: B may be missing, and --features and --metrics are overrides.

    Raises:
        ConfigError: options that do not go together.
    """
    import json

    second = options.reference
    if second is not None and "=" in second and not Path(second).exists():
        options.overrides.insert(0, second)
        options.reference = None
    for word in [word for word in options.overrides if "=" not in word]:
        raise ConfigError(f"{word!r} is one set too many; evaluate compares two, A and B")
    if (name := options.features) is not None:
        kind = name if name in KINDS else "timm"
        options.overrides.append(f"evaluation.features.kind={kind}")
        if kind != name:
            model = DINOV2 if name == "dinov2" else name
            options.overrides.append(f"evaluation.features.model={model}")
    names = options.metrics.split(",") if options.metrics else []
    options.nll = "nll" in names
    options.scored = not names or names != ["nll"]
    if scores := [name for name in names if name != "nll"]:
        options.overrides.append(f"evaluation.metrics={json.dumps(scores)}")
    if options.nll and (options.reference is not None or options.floor_curve):
        raise ConfigError("--metrics nll is of a run alone; leave out B and --floor-curve")
    is_run = (options.run_dir / "config.json").exists()
    if options.reference is None and not options.floor_curve and not is_run:
        raise ConfigError(
            f"{options.run_dir} is no run directory; name what to compare it with, as in "
            f"sfumato evaluate {options.run_dir} REFERENCE, or ask for its --floor-curve"
        )
    if options.floor_curve and is_run:
        raise ConfigError(f"{options.run_dir} is a run; a floor curve is of a data set")


def score_a_run(options: argparse.Namespace) -> None:
    """Sample, score, write RUN/evaluation.json and print the tables; write RUN/nll.json."""
    from sfumato.experiment.score_run import evaluate_run, load_with_data
    from sfumato.report.terminal import print_run

    result: dict[str, Any] = {}
    if options.scored:
        result = evaluate_run(options.run_dir, options.overrides)
        if not options.json:
            print_run(options.run_dir)
    if options.nll:
        from sfumato.explore.nll import LikelihoodConfig, nll, nll_table

        config = LikelihoodConfig(
            num_images=options.nll_images,
            tolerance=options.nll_tolerance,
            trace=options.nll_trace,
        )
        result["nll"] = nll(*load_with_data(options.run_dir, options.overrides), config)
        if not options.json:
            print(nll_table(result["nll"]))
    if options.json:
        print_json(result)


def compare_sets(options: argparse.Namespace) -> None:
    """Score A against B, draw suspected copies, print the table or JSON."""
    from sfumato.evaluation.copies import PAIRS, save_pairs
    from sfumato.evaluation.image_sources import StoredImages
    from sfumato.evaluation.protocol import default_features
    from sfumato.evaluation.score import score
    from sfumato.experiment.score_run import image_source

    ours, theirs = _divided(options.overrides)
    a, b = (image_source(str(name), theirs) for name in (options.run_dir, options.reference))

    def default() -> "Features":
        teachable = isinstance(b, StoredImages) and b.has_teacher
        return default_features(b.image_shape, teachable)

    results = score(a, b, _config(ours, default, STAND_ALONE))
    mapping = results.to_mapping()
    pairs = options.output or Path(PAIRS)
    if results.copies is not None:
        save_pairs(results.copies, pairs)
    if options.json:
        print_json(mapping)
        return
    from sfumato.report.terminal import (
        class_table,
        copies_text,
        histogram_text,
        protocol_lines,
        score_table,
    )
    from sfumato.runs.result_files import to_record
    from sfumato.runs.results import EvaluationRecord

    record = to_record(EvaluationRecord, mapping, "the evaluation")
    print(f"{a.name} against {b.name}\n")
    print(score_table(record))
    if record.classes:
        print("\n" + class_table(record))
    if record.class_histogram:
        print("\n" + histogram_text(record.class_histogram))
    if record.copies is not None:
        print("\n" + copies_text(record.copies, pairs))
    print("\n" + protocol_lines(results.protocol))
    for warning in results.warnings:
        print(f"\nnote: {warning}")


def draw_floors(options: argparse.Namespace) -> None:
    """Write the floor curve of a data set as a picture and as JSON, print the table or JSON."""
    from sfumato.core.config import override, parse
    from sfumato.core.files import write_json
    from sfumato.data.catalogue import load
    from sfumato.data.data_config import DataConfig
    from sfumato.evaluation.floor_curve import draw_floor_curve, floor_curve
    from sfumato.evaluation.protocol import default_features

    ours, theirs = _divided(options.overrides)
    given = override({"data": {"source": str(options.run_dir)}}, theirs)["data"]
    splits = load(parse(DataConfig, given, "override"))
    train = splits.train

    def default() -> "Features":
        return default_features(train.image_shape, train.num_classes > 0)

    curve = floor_curve(splits, _config(ours, default, ["frechet_distance"]))
    mapping = curve.to_mapping()
    path = options.output or Path("floor-curve.png")
    draw_floor_curve(curve, path)
    write_json(path.with_suffix(".json"), mapping)
    if options.json:
        print_json(mapping)
        return
    from sfumato.report.terminal import floor_table

    print(floor_table(mapping))
    print(f"\n{path}\n{path.with_suffix('.json')}")


def _divided(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Overrides of the evaluation, and of the data."""
    ours = [o for o in overrides if o.startswith("evaluation.")]
    theirs = [o for o in overrides if o.startswith("data.")]
    for word in overrides:
        if word not in ours and word not in theirs:
            raise ConfigError(
                f"override {word!r} does not apply to sets of images; evaluation.* and data.* do"
            )
    return ours, theirs


def _config(
    overrides: list[str], default: "Callable[[], Features]", metrics: list[str]
) -> "EvaluationConfig":
    """How sets of images are scored: as the user asks, else with default features and metrics."""
    from sfumato.core.config import override, parse
    from sfumato.evaluation.protocol import EvaluationConfig

    start = "evaluation.features.kind="
    named = [o.removeprefix(start) for o in overrides if o.startswith(start)]
    kind = named[-1] if named else default().kind
    base: dict[str, Any] = {"features": {"kind": kind}, "metrics": metrics}
    mapping = override({"evaluation": base}, overrides)["evaluation"]
    return parse(EvaluationConfig, mapping, "override")
