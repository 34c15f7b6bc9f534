"""The results of runs and studies: one schema, which studies write and reports read.

results.json holds a `Results`, evaluation.json of a run an `EvaluationRecord`, summary.json a
`SummaryRecord`. Only what a report cannot do without is required, so that old files load; keys that
this version does not know are ignored. Needs no torch.
"""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sfumato.core.config import component

VERSION = 1
"""Of the schema. It rises when a key changes its meaning, not when a key is added."""

Facts = dict[str, Any]
"""Settings and circumstances that are shown as they are: protocols, machines, budgets."""
Better = Literal["lower", "higher"]


class Record(BaseModel):
    """A JSON object whose unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ScoreRecord(Record):
    """A score with its 95 % interval.

    Args:
        value: the estimate.
        low, high: bounds of the interval; None if none was computed.
        n: number of images it was computed from.
        standard_error: of `value` over draws of the images.
        protocol: digest of what the value means; scores of different digests are not compared.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    standard_error: float | None = None
    protocol: str | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both bounds, if they are known and finite."""
        if self.low is None or self.high is None:
            return None
        finite = math.isfinite(self.low) and math.isfinite(self.high)
        return (self.low, self.high) if finite else None


Scores = dict[str, ScoreRecord]
"""By the key of the metric."""


class ExcessRecord(Record):
    """A score beside its floor: floor, score / floor, score - floor with its 95 % interval."""

    floor: float
    ratio: float | None = None
    excess: float
    low: float | None = None
    high: float | None = None


class MetricColumn(Record):
    """A column of scores; `floor` is the same metric on real images."""

    key: str
    label: str
    better: Better
    floor: ScoreRecord | None = None


class CopySearch(Record):
    """Shares of samples and of held-out images that are suspected copies of training images.

    `median_ratio`: median distance of samples to the nearest training image, over that of held-out
    images. `threshold`: distances below it are suspected.
    """

    copies: ScoreRecord
    held_out: ScoreRecord
    threshold: float | None = None
    median_ratio: float


class CopiesRecord(Record):
    """Suspected copies by features and by pixels, near-duplicates, and the spread of the samples.

    `diversity` is the spread in feature space over that of held-out images. `pairs` are (sample,
    training image).
    """

    features: CopySearch
    pixels: CopySearch
    duplicates: ScoreRecord
    real_duplicates: ScoreRecord
    diversity: float
    pairs: list[tuple[int, int]] = []


class EvaluationRecord(Record):
    """evaluation.json: what `evaluate RUN` found.

    `grid_rows` are the classes of the rows of grid.png; empty if a row mixes classes.
    """

    protocol: Facts = {}
    nfe: int | None = None
    sampling: Facts = {}
    sample_seconds: float | None = None
    grid_rows: list[str] = []
    metrics: list[MetricColumn] = []
    scores: Scores = {}
    excess: dict[str, ExcessRecord] = {}
    class_histogram: dict[str, int] = {}
    classes: dict[str, Scores] = {}
    class_floors: dict[str, Scores] = {}
    class_excess: dict[str, dict[str, ExcessRecord]] = {}
    copies: CopiesRecord | None = None
    warnings: list[str] = []


class SummaryRecord(Record):
    """summary.json: what training took. `sampled_parameters` are those that sampling needs."""

    parameters: int | None = None
    sampled_parameters: int | None = None
    nfe: int | None = None
    images_seen: int | None = None
    train_seconds: float | None = None
    images_per_second: float | None = None
    warnings: list[str] = []


class SamplerPoint(Record):
    """The Fréchet distance of a run with another number of sampling steps."""

    steps: int
    nfe: int
    sample_seconds: float | None = None
    frechet_distance: ScoreRecord


class Measurements(Record):
    """measurements.json: what a study measures of a run beside its scores.

    `likelihood` holds bits per dimension: "train", "held_out", "gap" -> term of the bound.
    """

    sampler_curve: list[SamplerPoint] = []
    likelihood: dict[str, Scores] | None = None
    warnings: list[str] = []


class RunRecord(Record):
    """One training run of an arm; `directory` is relative to that of the study."""

    seed: int = 0
    directory: str
    images_seen: int | None = None
    train_seconds: float | None = None
    images_per_second: float | None = None
    training_parameters: int | None = None
    sample_seconds: float | None = None
    scores: dict[str, ScoreRecord | None] = {}
    classes: dict[str, Scores] = {}
    excess: dict[str, ExcessRecord] = {}
    class_floors: dict[str, Scores] = {}
    copies: CopiesRecord | None = None
    grid_rows: list[str] = []
    likelihood: dict[str, Scores] | None = None
    final_losses: dict[str, float] = {}
    sampler_curve: list[SamplerPoint] = []
    warnings: list[str] = []


class Failure(Record):
    """A run that diverged for good."""

    arm: str
    seed: int
    reason: str


class ArmRecord(Record):
    """What is compared: one configuration, trained once with each seed.

    `config` has the dotted keys in which the arms differ.
    """

    name: str
    parameters: int | None = None
    nfe: int | None = None
    runs: list[RunRecord] = []
    diverged: list[Failure] = []
    config: Facts = {}

    def values(self, metric: str) -> list[float]:
        """The finite scores of the runs that have one."""
        scores = [run.scores.get(metric) for run in self.runs]
        return [score.value for score in scores if score and math.isfinite(score.value)]

    def mean(self, metric: str) -> float | None:
        """The mean score over the training seeds."""
        values = self.values(metric)
        return sum(values) / len(values) if values else None


class Verdict(Record):
    """A comparison of two arms in one metric.

    Args:
        metric: its key.
        a, b: names of the arms.
        difference: a - b, in the unit of the metric.
        low, high: its interval, corrected for the number of comparisons.
        verdict: whether a is better or worse than b, or neither is shown.
        text: the same as a sentence.
        paired: whether the images of both arms start from the same noise and the interval uses it.
    """

    metric: str
    a: str
    b: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Literal["better", "worse", "not shown"]
    text: str = ""
    paired: bool = False


class FrontPoint(Record):
    """What an arm reaches at a cost, mean over its training seeds.

    `on_front`: no other point is as good at no more cost.
    """

    arm: str
    cost: float
    quality: float
    on_front: bool = False


class Fronts(Record):
    """Quality, by one metric, against what it costs."""

    metric: str
    train_seconds: list[FrontPoint] = []
    nfe: list[FrontPoint] = []
    sample_seconds: list[FrontPoint] = []


class Comparison(Record):
    """Two arms image by image: 0 means equal images, 1 as different as those of other seeds."""

    a: str
    b: str
    seed: int
    picture: str
    pixels: ScoreRecord
    features: ScoreRecord


@component
class PublishedFigure:
    """A number of the literature, beside what a study finds.

    Args:
        what: in the words of the source.
        value: as printed there.
        arm: the arm it belongs to; None: it is about real images or none of them.
        metric: the key of our metric that comes nearest; None: a number of another kind.
    """

    what: str
    value: float
    arm: str | None = None
    metric: str | None = "frechet_distance"


@component
class Published:
    """What the literature says.

    Args:
        source: where, and in which unit or protocol.
        figures: its numbers.
        claims: its findings, in words.
    """

    source: str
    figures: tuple[PublishedFigure, ...] = ()
    claims: tuple[str, ...] = ()


class Results(Record):
    """results.json: all that a report shows, apart from pictures and training histories."""

    version: int = Field(default=VERSION, le=VERSION)
    name: str
    title: str = ""
    description: str = ""
    created: str = ""
    seconds: float | None = None
    preset: str = ""
    hours: float | None = None
    shrunk: list[str] = []
    machine: Facts = {}
    data: Facts = {}
    budget: Facts = {}
    factors: list[str] = []
    seeds: list[int] = []
    protocol: Facts = {}
    metrics: list[MetricColumn] = []
    arms: list[ArmRecord]
    diverged: list[Failure] = []
    waiting: int = 0
    verdicts: list[Verdict] = []
    fronts: Fronts | None = None
    compared: list[Comparison] = []
    published: Published | None = None
    commands: list[str] = []

    def metric(self, key: str | None) -> MetricColumn | None:
        """The metric of that key, if there is one."""
        return next((metric for metric in self.metrics if metric.key == key), None)

    def arm(self, name: str | None) -> ArmRecord | None:
        """The arm of that name, if it has any results."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def place_of(self, arm: str) -> int:
        """The place of an arm among all, which decides its colour."""
        return next((k for k, found in enumerate(self.arms) if found.name == arm), 0)
