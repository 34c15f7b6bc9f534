"""The parts of `sfumato evaluate` that take any sets of images, not only runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.core.errors import ConfigError

if TYPE_CHECKING:
    from sfumato.evaluation.protocol import EvaluationConfig

KINDS = ("inception", "efficientnet-lite0", "classifier", "timm")
STAND_ALONE = ["frechet_distance", "kernel_distance", "precision", "recall"]
DINOV2 = "vit_large_patch14_dinov2.lvd142m"


def arrange(options: argparse.Namespace) -> None:
    """Sort what was given: B may be missing, and --features is an override like others.

    Raises:
        ConfigError: options that do not go together.
    """
    second = options.reference
    if second is not None and "=" in second and not Path(second).exists():
        options.overrides.insert(0, second)
        options.reference = None
    for word in [word for word in options.overrides if "=" not in word]:
        raise ConfigError(f"{word!r} is one set too many; evaluate compares two, A and B")
    if options.features is not None:
        options.overrides += _feature_overrides(options.features)
    names = options.metrics.split(",") if options.metrics else []
    if "nll" in names and (options.reference is not None or options.floor_curve):
        raise ConfigError("--metrics nll is of a run alone; leave out B and --floor-curve")
    is_run = (options.run_dir / "config.json").exists()
    if options.reference is None and not options.floor_curve and not is_run:
        raise ConfigError(
            f"{options.run_dir} is no run directory; name what to compare it with, as in "
            f"sfumato evaluate {options.run_dir} REFERENCE, or ask for its --floor-curve"
        )
    if options.floor_curve and is_run:
        raise ConfigError(f"{options.run_dir} is a run; a floor curve is of a data set")


def compare_sets(options: argparse.Namespace) -> None:
    """Score A against B, draw suspected copies, print the table or JSON."""
    import json

    from sfumato.evaluation.compare import compare, default_features, has_classes
    from sfumato.evaluation.copies import PAIRS, save_pairs
    from sfumato.evaluation.image_sources import image_set

    ours, theirs = _divided(options.overrides)
    a, b = (image_set(str(name), theirs) for name in (options.run_dir, options.reference))
    if options.metrics:
        ours.insert(0, f"evaluation.metrics={json.dumps(options.metrics.split(','))}")
    kind = _named_kind(ours) or default_features(b.image_shape, has_classes(b)).kind
    config = _config(ours, kind, STAND_ALONE)
    results = compare(a, b, config)
    mapping = results.to_mapping()
    pairs = options.output or Path(PAIRS)
    if results.copies is not None:
        save_pairs(results.copies, pairs)
    if options.json:
        print(json.dumps(mapping, indent=2))
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
    import json

    from sfumato.core.config import override, parse
    from sfumato.core.files import write_json
    from sfumato.data.catalogue import load
    from sfumato.data.data_config import DataConfig
    from sfumato.evaluation.compare import default_features
    from sfumato.evaluation.floor_curve import draw_floor_curve, floor_curve

    ours, theirs = _divided(options.overrides)
    given = override({"data": {"source": str(options.run_dir)}}, theirs)["data"]
    splits = load(parse(DataConfig, given, "override"))
    train = splits.train
    kind = _named_kind(ours) or default_features(train.image_shape, train.num_classes > 0).kind
    config = _config(ours, kind, ["frechet_distance"])
    curve = floor_curve(splits, config)
    mapping = curve.to_mapping()
    path = options.output or Path("floor-curve.png")
    draw_floor_curve(curve, path)
    write_json(path.with_suffix(".json"), mapping)
    if options.json:
        print(json.dumps(mapping, indent=2))
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


def _config(overrides: list[str], features: str, metrics: list[str]) -> "EvaluationConfig":
    from sfumato.core.config import override, parse
    from sfumato.evaluation.protocol import EvaluationConfig

    base: dict[str, Any] = {"features": {"kind": features}, "metrics": metrics}
    mapping = override({"evaluation": base}, overrides)["evaluation"]
    return parse(EvaluationConfig, mapping, "override")


def _named_kind(overrides: list[str]) -> str | None:
    """The features that the user asked for; None: the default is to be found."""
    start = "evaluation.features.kind="
    named = [o.removeprefix(start) for o in overrides if o.startswith(start)]
    return named[-1] if named else None


def _feature_overrides(name: str) -> list[str]:
    kind = name if name in KINDS else "timm"
    chosen = [f"evaluation.features.kind={kind}"]
    if kind != name:
        chosen.append(f"evaluation.features.model={DINOV2 if name == 'dinov2' else name}")
    return chosen
