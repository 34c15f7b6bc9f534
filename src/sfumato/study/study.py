"""A study: several arms that differ in stated factors only, under one budget."""

from dataclasses import replace
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
from sfumato.core.errors import ConfigError
from sfumato.run.experiment import RECIPES, Experiment, read_recipe

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
