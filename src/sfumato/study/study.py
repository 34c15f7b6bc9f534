"""A study: several arms under one budget, scored alike, compared with a verdict."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sfumato.core.config import (
    component,
    differences,
    merge,
    override,
    parse,
    read_toml,
    to_mapping,
)
from sfumato.core.errors import ConfigError, RunError
from sfumato.core.files import write_json
from sfumato.data.catalogue import load
from sfumato.run.directory import check_same_experiment, locked, read_json
from sfumato.run.evaluate import Evaluator
from sfumato.run.experiment import RECIPES, Experiment, read_recipe
from sfumato.run.score import score_run
from sfumato.run.train import train, with_decay_recorded
from sfumato.study.results import study_results

IDENTITY = ("name", "training.seed")
"""Keys in which arms and seeds differ by their nature."""


@component
class Budget:
    """What every arm may spend on training; exactly one of the three."""

    images: int | None = None
    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = [b for b in (self.images, self.steps, self.seconds) if b is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ValueError(
                "budget needs exactly one of images, steps, seconds, above 0; "
                f"got images={self.images}, steps={self.steps}, seconds={self.seconds}"
            )


@component
class Study:
    """A question put to experiments.

    Args:
        name: short, fit for a directory name.
        title, description: for the report.
        factors: dotted keys (or their beginnings) in which the arms may differ, and no others.
        budget: the same for all arms.
        seeds: training seeds; every arm is trained once with each.
        arms: the experiments by name.
    """

    name: str
    title: str = ""
    description: str = ""
    factors: tuple[str, ...]
    budget: Budget
    seeds: tuple[int, ...] = (0,)
    arms: dict[str, Experiment]

    def __post_init__(self) -> None:
        if len(self.arms) < 1 or len(self.seeds) < 1:
            raise ValueError(f"study {self.name!r} needs at least one arm and one seed")
        names = list(self.arms)
        reference = to_mapping(self.arms[names[0]])
        for name in names[1:]:
            self._check_pair(names[0], name, differences(reference, to_mapping(self.arms[name])))

    def _check_pair(self, a: str, b: str, found: dict[str, tuple[Any, Any]]) -> None:
        for key, (left, right) in found.items():
            if key in IDENTITY or any(f"{key}.".startswith(f"{f}.") for f in self.factors):
                continue
            raise ValueError(
                f"study {self.name!r}: arms {a!r} and {b!r} differ in {key} ({left!r}, {right!r}), "
                "which is not in factors; make them equal or add it to factors"
            )

    def experiment(self, arm: str, seed: int) -> Experiment:
        """One arm's experiment with one seed and the study's budget."""
        experiment = self.arms[arm]
        training = replace(
            experiment.training,
            seed=seed,
            budget_images=self.budget.images,
            budget_steps=self.budget.steps,
            budget_seconds=self.budget.seconds,
        )
        return replace(experiment, name=arm, training=training)


def study_names() -> list[str]:
    """The names of the studies that come with the package."""
    return sorted(p.stem for p in RECIPES.glob("*.toml") if "arms" in read_toml(p))


def load_study(name_or_path: str, overrides: list[str]) -> Study:
    """A study by name or path, with overrides applied.

    In the file, `[arms.NAME]` has a `recipe` and the keys it changes; the table `[common]` holds
    changes for all arms.
    Raises:
        ConfigError: an unknown key, or arms that differ outside the factors.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
    if path.suffix == ".toml" and not path.exists():
        raise ConfigError(
            f"there is no study {name_or_path!r}; give a path ending in .toml, or one of: "
            + ", ".join(study_names())
        )
    mapping = override(read_toml(path), overrides)
    mapping.setdefault("name", path.stem)
    arms, common = mapping.get("arms"), mapping.pop("common", {})
    if not isinstance(arms, dict) or not all(isinstance(arm, dict) for arm in arms.values()):
        raise ConfigError(f"{path} is not a study: it has no tables [arms.NAME]")
    budget = mapping.get("budget", {})
    for name, arm in arms.items():
        if "recipe" not in arm:
            raise ConfigError(f"{path}: arm {name!r} names no recipe; add recipe = '...'")
        changes = {key: value for key, value in arm.items() if key != "recipe"}
        experiment = merge(merge(read_recipe(arm["recipe"]), common), changes)
        arms[name] = experiment | {"name": name}
        arms[name]["training"] = _with_budget(experiment.get("training", {}), budget)
    return parse(Study, mapping, str(path))


def _with_budget(training: dict[str, Any], budget: dict[str, Any]) -> dict[str, Any]:
    """The training table with the study's budget in place of the recipe's own."""
    kept = {key: value for key, value in training.items() if not key.startswith("budget_")}
    return kept | {f"budget_{kind}": amount for kind, amount in budget.items()}


def run_study(study: Study, directory: Path, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Train and score what is not done yet; returns the results, which are written after each arm.

    Raises:
        RunError: the directory holds another study.
        Interrupted: stopped; the same command goes on.
    """
    began = time.monotonic()
    _open(study, directory)
    with locked(directory):
        before = _recorded_seconds(directory)
        first = next(iter(study.arms.values()))
        splits = load(first.data)
        tell("preparing the evaluation: classifiers and the floor")
        evaluator = Evaluator(splits, first.evaluation)
        results: dict[str, Any] = {}
        for seed in study.seeds:
            for arm in study.arms:
                run_dir = directory / "runs" / arm / f"seed-{seed}"
                experiment = study.experiment(arm, seed)
                if not (run_dir / "summary.json").exists():
                    train(experiment, run_dir, resume=run_dir.exists(), tell=tell)
                else:
                    _check_done(run_dir, experiment)
                if not (run_dir / "evaluation.json").exists():
                    score_run(run_dir, evaluator)
                seconds = before + time.monotonic() - began
                results = study_results(study, directory, evaluator, splits, seconds)
                write_json(directory / "results.json", results)
        return results


def _open(study: Study, directory: Path) -> None:
    """Create the study directory, or check that it holds this study."""
    path = directory / "study.json"
    mapping = to_mapping(study)
    if path.exists():
        changed = differences(read_json(directory, "study.json"), mapping)
        if changed:
            key, (old, new) = next(iter(changed.items()))
            raise RunError(
                f"{directory} holds a study that differs in {key} ({old!r}, now {new!r}); "
                "choose another directory with --output"
            )
        return
    if directory.exists() and any(directory.iterdir()):
        raise RunError(
            f"{directory} already exists and holds no study; choose another with --output"
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(path, mapping)


def _check_done(run_dir: Path, experiment: Experiment) -> None:

    check_same_experiment(run_dir, with_decay_recorded(experiment), force=False)


def _recorded_seconds(directory: Path) -> float:
    if not (directory / "results.json").exists():
        return 0.0
    return float(read_json(directory, "results.json")["seconds"])
