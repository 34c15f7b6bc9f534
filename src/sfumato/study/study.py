"""A study: arms that differ in named factors only, one budget, several training seeds."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from sfumato.core.config import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    changeable,
    component,
    differences,
    is_decisive,
    may_change,
    to_mapping,
)
from sfumato.experiment.experiment import Experiment
from sfumato.runs.results import Published
from sfumato.study.sweep import OptunaSearch


@component
class Budget:
    """The training budget of every arm; exactly one of the three."""

    images: PositiveInt | None = None
    steps: PositiveInt | None = None
    seconds: PositiveFloat | None = None

    def __post_init__(self) -> None:
        if [self.images, self.steps, self.seconds].count(None) != 2:
            raise ValueError(
                "budget needs exactly one of images, steps, seconds; "
                f"got images={self.images}, steps={self.steps}, seconds={self.seconds}"
            )


@component
class Measure:
    """Measurements of every run beside the scores of its evaluation.

    Args:
        by_class: adds a column, a floor and verdicts for each class. Arms may then be trained on
            some of the classes (`data.classes` among the factors).
        likelihood_images: number of held-out images for the bits per dimension of diffusion
            models (the variational bound), at least 2; 0: none.
        sampler_steps: numbers of sampler steps at which to measure the Fréchet distance: quality
            against NFE, for models with a sampler.
        walks: number of interpolations between the noises of two seeds, one picture per arm.
    """

    by_class: bool = False
    likelihood_images: NonNegativeInt = 0
    sampler_steps: tuple[PositiveInt, ...] = ()
    walks: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.likelihood_images == 1:
            raise ValueError("measure.likelihood_images should be 0 (none) or at least 2, got 1")


@component
class Study:
    """A comparison of experiments.

    Args:
        name: short, fit for a directory name.
        title, description: for the report.
        factors: dotted keys, or their beginnings; the arms may differ in these only.
        budget: the same for all arms.
        seeds: training seeds; every arm is trained once with each.
        arms: the experiments by name.
        measure: measurements beside the scores.
        compare: pairs of arms whose samples are compared image by image.
        search: a search for good values by Optuna; its trials become arms.
        published: results from the literature.
        preset: the preset in use; empty: none.
        hours: the most hours that the study takes on 2 cores, by its preset.
        shrunk: the changes of the preset, in words.
        command: the command line that the user typed.
    """

    name: str
    title: Annotated[str, may_change("study")] = ""
    description: Annotated[str, may_change("study")] = ""
    factors: tuple[str, ...]
    budget: Budget
    seeds: Annotated[tuple[int, ...], Field(min_length=1), may_change("study")] = (0,)
    arms: Annotated[dict[str, Experiment], Field(min_length=1)]
    measure: Measure = Measure()
    compare: tuple[tuple[str, str], ...] = ()
    search: OptunaSearch | None = None
    published: Annotated[Published | None, may_change("study")] = None
    preset: str = ""
    hours: Annotated[float | None, may_change("study")] = None
    shrunk: Annotated[tuple[str, ...], may_change("study")] = ()
    command: Annotated[str, may_change("study")] = ""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"study {self.name!r} names a seed twice: {list(self.seeds)}")
        for factor in self.factors:
            if is_decisive(Experiment, factor, "protocol"):
                raise ValueError(
                    f"study {self.name!r}: {factor} cannot be a factor, since scores of different "
                    "protocols are not comparable; set it for all arms in [evaluation] or [common]"
                )
        for arm in self.arms:
            if not arm or any(letter in arm for letter in "/\\\0") or arm.startswith("."):
                raise ValueError(
                    f"study {self.name!r}: the arm name {arm!r} cannot name a directory; use "
                    "letters, digits, '-', '=' and ','"
                )
        names = list(self.arms)
        reference = to_mapping(self.arms[names[0]])
        for name in names[1:]:
            self._check_pair(names[0], name, differences(reference, to_mapping(self.arms[name])))
        self._check_names()

    def _check_pair(self, a: str, b: str, found: dict[str, tuple[Any, Any]]) -> None:
        for key, (left, right) in found.items():
            is_factor = any(f"{key}.".startswith(f"{factor}.") for factor in self.factors)
            if is_factor or changeable(Experiment, key, "arms"):
                continue
            raise ValueError(
                f"study {self.name!r}: arms {a!r} and {b!r} differ in {key} ({left!r}, {right!r}), "
                "which is not in factors; make them equal or add it to factors"
            )

    def _check_names(self) -> None:
        """Refuse unknown arms in `compare` and `published`."""
        figures = self.published.figures if self.published else ()
        places = [("compare", arm) for pair in self.compare for arm in pair]
        places += [("published.figures", figure.arm) for figure in figures if figure.arm]
        for place, arm in places:
            if arm not in self.arms:
                raise ValueError(
                    f"study {self.name!r}: {place} names the arm {arm!r}; the arms are "
                    + ", ".join(self.arms)
                )

    @property
    def tasks(self) -> list[tuple[str, int]]:
        """(arm, seed) in the order of training: all arms with the first seed, then the next."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

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

    def distinctions(self) -> dict[str, dict[str, Any]]:
        """For every arm its values of the dotted keys in which the arms differ."""
        flat = {name: _leaves(to_mapping(arm)) for name, arm in self.arms.items()}
        differing = [
            key
            for key in {key: None for leaves in flat.values() for key in leaves}
            if not changeable(Experiment, key, "arms")
            and len({repr(leaves[key]) for leaves in flat.values() if key in leaves}) > 1
        ]
        return {
            name: {k: leaves[k] for k in differing if leaves.get(k) is not None}
            for name, leaves in flat.items()
        }


def _leaves(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            found |= _leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
