"""The smaller records of a results file."""

import math

from pydantic import BaseModel, ConfigDict


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
