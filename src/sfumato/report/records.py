"""What a results file holds. Only what a report cannot do without is required: everything else may
be missing.
"""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Keys that a report does not know are none of its business: files may grow."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Estimate(Record):
    """A score with its 95 % interval; the bounds are None when none was computed."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    standard_error: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether both bounds are there and finite."""
        return all(bound is not None and math.isfinite(bound) for bound in (self.low, self.high))


class SamplerPoint(Record):
    """The Fréchet distance of a run with another number of sampling steps."""

    steps: int
    nfe: int
    sample_seconds: float | None = None
    frechet_distance: Estimate


class Failure(Record):
    """A run that diverged for good."""

    arm: str
    seed: int
    reason: str


class FrontPoint(Record):
    """What an arm reaches at a cost, and whether no other point is as good for as little."""

    arm: str
    cost: float
    quality: float
    on_front: bool


class Fronts(Record):
    """Quality, by one metric, against what it costs."""

    metric: str
    train_seconds: list[FrontPoint] = []
    nfe: list[FrontPoint] = []
    sample_seconds: list[FrontPoint] = []


class Comparison(Record):
    """Two arms image by image; 0: the same images, 1: as unlike as those of different seeds."""

    a: str
    b: str
    seed: int
    pixels: Estimate
    features: Estimate
    picture: str


class PublishedFigure(Record):
    """A number of the literature; `arm` and `metric` say what of ours it is held against."""

    what: str
    value: float
    arm: str | None = None
    metric: str | None = None


class Published(Record):
    """What the literature says."""

    source: str
    figures: list[PublishedFigure] = []
    claims: list[str] = []


class Metric(Record):
    """A column of scores; `floor` is the same metric on real images."""

    key: str
    label: str
    better: Literal["lower", "higher"]
    floor: Estimate | None = None


class RunRecord(Record):
    """One training run of an arm; `directory` is relative to that of the study.

    `grid_rows` are the classes of the rows of its grid.png; empty where they are no classes.
    """

    seed: int = 0
    directory: str
    images_seen: int | None = None
    train_seconds: float | None = None
    sample_seconds: float | None = None
    images_per_second: float | None = None
    training_parameters: int | None = None
    scores: dict[str, Estimate | None] = {}
    classes: dict[str, dict[str, Estimate]] = {}
    class_floors: dict[str, dict[str, Estimate]] = {}
    copies: dict[str, Any] | None = None
    grid_rows: list[str] = []
    sampler_curve: list[SamplerPoint] = []
    final_losses: dict[str, float] = {}
    warnings: list[str] = []


class Arm(Record):
    """What is compared: one configuration, trained once for each seed."""

    name: str
    parameters: int | None = None
    nfe: int | None = None
    config: dict[str, Any] = {}
    runs: list[RunRecord] = []

    def values(self, metric: str) -> list[float]:
        """The finite scores of the runs that have one."""
        scores = [run.scores.get(metric) for run in self.runs]
        return [score.value for score in scores if score and math.isfinite(score.value)]

    def mean(self, metric: str) -> float | None:
        """The mean score over the training seeds."""
        values = self.values(metric)
        return sum(values) / len(values) if values else None


class Verdict(Record):
    """Whether arm `a` is better or worse than arm `b`, or neither is shown."""

    metric: str
    a: str
    b: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Literal["better", "worse", "not shown"]
    text: str = ""


class Results(Record):
    """Everything that a report shows, apart from pictures and training histories."""

    name: str
    title: str = ""
    description: str = ""
    created: str = ""
    seconds: float | None = None
    machine: dict[str, Any] = {}
    data: dict[str, Any] = {}
    budget: dict[str, Any] = {}
    factors: list[str] = []
    seeds: list[int] = []
    protocol: dict[str, Any] = {}
    metrics: list[Metric] = []
    arms: list[Arm] = Field(min_length=1)
    verdicts: list[Verdict] = []
    preset: str = ""
    hours: float | None = None
    shrunk: list[str] = []
    diverged: list[Failure] = []
    waiting: int = 0
    fronts: Fronts | None = None
    compared: list[Comparison] = []
    published: Published | None = None
    commands: list[str] = []

    def metric(self, key: str | None) -> Metric | None:
        """The metric of that key, if there is one."""
        return next((metric for metric in self.metrics if metric.key == key), None)

    def arm(self, name: str | None) -> Arm | None:
        """The arm of that name, if it has any results."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def colour(self, arm: str) -> int:
        """The place of an arm, which decides its colour."""
        return next((k for k, found in enumerate(self.arms) if found.name == arm), 0)
