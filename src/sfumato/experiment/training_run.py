"""Training: from an experiment to a run directory, or to an estimate of what that takes."""

import contextlib
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sfumato.core import distributed
from sfumato.core.config import to_mapping
from sfumato.core.distributed import default_device, gpu_name
from sfumato.core.files import write_json
from sfumato.core.generative_model import GenerativeModel
from sfumato.core.images import Labels, UInt8Images
from sfumato.core.numbers import duration, short_count
from sfumato.data.catalogue import load
from sfumato.data.dataset import Dataset, Splits
from sfumato.evaluation.image_sources import ArrayImages
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.evaluation.reference import HeldOut
from sfumato.evaluation.score import score
from sfumato.experiment.experiment import Experiment, build_model, with_plan
from sfumato.experiment.load import check_same_experiment, describe
from sfumato.experiment.plan_choice import choose_plan
from sfumato.metrics.features import ImageFeatures
from sfumato.metrics.memorization import duplicates, suspicious_distance
from sfumato.runs import directory as run_directory
from sfumato.speed.plan import Plan
from sfumato.speed.plan_search import Choice
from sfumato.speed.sampling import sample_images
from sfumato.training.loop import TrainingLoop
from sfumato.training.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """A finished run: where it is and what it took."""

    directory: Path
    summary: dict[str, Any]


def with_decay_fixed(experiment: Experiment) -> Experiment:
    """The experiment with the length of the learning-rate decay fixed to its first budget."""
    config = experiment.training
    images = config.budget_images or (config.budget_steps or 0) * config.batch_size
    if config.decay_images is not None or images == 0:
        return experiment
    return replace(experiment, training=replace(config, decay_images=images))


def train(
    experiment: Experiment,
    run_dir: Path,
    *,
    resume: bool = False,
    force: bool = False,
    log: Callable[[str], None] = print,
) -> Run:
    """Train a model and write its run directory.

    In a process group every process calls this; the main one writes files and messages.

    Args:
        experiment: what to train, on what, for how long.
        run_dir: must not exist yet, or hold an interrupted run when `resume` is true.
        resume: continue from the newest sound checkpoint (or from the start if there is none).
        force: resume in spite of a changed config, or of changed images.
        log: receives messages for the user.
    Raises:
        RunError: the directory exists, is in use, or holds a run of another config or of
            other images; or training diverged, and again at a lower learning rate.
        Interrupted: stopped by Ctrl-C or SIGTERM, after saving a checkpoint.
    """
    if not distributed.is_main():
        log = lambda message: None  # noqa: E731
    experiment, resuming = distributed.on_main(
        lambda: _resolved(experiment, run_dir, resume, force)
    )
    splits = load(experiment.data)
    experiment, choice, trainer = _prepared(experiment, splits.train)
    if choice.candidates:
        log(f"performance: {choice}")
    record, data = to_mapping(experiment), describe(splits.train)

    def open_directory() -> None:
        stack.enter_context(run_directory.locked(run_dir))
        if not resuming:
            machine = run_directory.environment(torch.get_num_threads(), gpu_name())
            run_directory.create(run_dir, record, machine)
        run_directory.check_same_data(run_dir, data, force)
        run_directory.clean(run_dir)
        write_json(run_dir / "config.json", record)
        if not (run_dir / "performance.json").exists():
            write_json(run_dir / "performance.json", choice.to_mapping())
        write_json(run_dir / "data.json", data)

    with contextlib.ExitStack() as stack:
        distributed.on_main(open_directory)
        score = None
        if experiment.training.score_images:
            log("preparing the evaluation: classifiers and the floor")
            score = OnlineScores(splits, experiment.evaluation, choice.plan).look
        TrainingLoop(run_dir, record, trainer, splits, score, log).run()
        summary = _summary(trainer)
        if distributed.is_main():
            write_json(run_dir / "summary.json", summary)
        distributed.barrier()
        return Run(run_dir, summary)


def _resolved(
    experiment: Experiment, run_dir: Path, resume: bool, force: bool
) -> tuple[Experiment, bool]:
    """The experiment with its decay fixed, and whether a run is continued."""
    if resume and not run_directory.is_blank(run_dir):
        return with_decay_fixed(check_same_experiment(run_dir, experiment, force)), True
    run_directory.check_new(run_dir)
    return with_decay_fixed(experiment), False


def _prepared(experiment: Experiment, dataset: Dataset) -> tuple[Experiment, Choice, Trainer]:
    """The experiment with its plan fixed, how the plan was chosen, and a trainer at the start."""
    device = default_device()
    choice = choose_plan(experiment, dataset, device)
    experiment = with_plan(experiment, choice.plan)
    model = build_model(experiment, dataset)
    return experiment, choice, Trainer(experiment.training, model, device, experiment.data.augment)


def _summary(trainer: Trainer) -> dict[str, Any]:
    """The content of summary.json of a finished run."""
    model, state = trainer.model, trainer.state
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "sampled_parameters": sum(p.numel() for p in model.sampled_module.parameters()),
        "nfe": model.nfe,
        "images_seen": state.images,
        "steps": state.step,
        "train_seconds": state.seconds,
        "images_per_second": state.images / max(state.seconds, 1e-9),
        "processes": distributed.world_size(),
        "rate_factor": state.rate_factor,
        "best": None if state.best is None else to_mapping(state.best),
        "warnings": state.warnings,
    }


WARM_UP = 2
TIMED = 5


def training_forecast(experiment: Experiment) -> str:
    """The resolved config, the parameter count, and estimates of time and memory, as text."""
    experiment = with_decay_fixed(experiment)
    splits = load(experiment.data)
    experiment, choice, trainer = _prepared(experiment, splits.train)
    config = experiment.training
    share = distributed.local_slice(config.batch_size)
    batches = splits.train.batches(config.batch_size, config.seed, which=share)
    times = []
    for _ in range(WARM_UP + TIMED):
        began = time.perf_counter()
        trainer.step(trainer.prepare(*next(batches)))
        trainer.means.means()  # waits for the device
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times[WARM_UP:])
    steps = config.budgeted_steps or round((config.budget_seconds or 0) / seconds)
    lines = [
        *_assignments(to_mapping(experiment)),
        "",
        f"data        {len(splits.train):,} training and {len(splits.held_out):,} held-out images, "
        f"{'x'.join(map(str, splits.train.image_shape))}, {splits.train.num_classes} classes",
        f"parameters  {sum(p.numel() for p in trainer.model.parameters()):,}",
        f"time        {duration(steps * seconds)} for {steps:,} steps of {config.batch_size} "
        f"images ({config.batch_size / seconds:,.0f} img/s, from {TIMED} timed steps)",
        f"plan        {choice}",
        f"memory      {short_count(_peak_memory(trainer.device))}B at the peak of a step",
    ]
    return "\n".join(lines)


def _assignments(mapping: dict[str, Any], prefix: str = "") -> list[str]:
    """The config as lines that can be given as overrides."""
    lines = []
    for key, value in mapping.items():
        if isinstance(value, dict):
            lines += _assignments(value, f"{prefix}{key}.")
        elif value is not None:
            lines.append(f"{prefix}{key}={json.dumps(value)}")
    return lines


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else the peak of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


BATCH = 256


class OnlineScore(NamedTuple):
    """What the samples of a model in training show.

    Args:
        scores: a row of the log.
        class_shares: of the samples, as the judge of labels sees them; empty where there are no
            two classes.
        duplicates, real_duplicates: the shares of samples, and of as many held-out images, that
            have a twin among the others.
    """

    scores: dict[str, float]
    class_shares: dict[str, float]
    duplicates: float
    real_duplicates: float

    @property
    def row(self) -> dict[str, float]:
        """All of it for the log."""
        shares = {f"class_share/{name}": share for name, share in self.class_shares.items()}
        return {**self.scores, **shares, "duplicates": self.duplicates}


class OnlineScores:
    """Draws the samples that a protocol asks for, shared among the processes, and scores them.

    Image i is drawn from seed i, as `sfumato evaluate` does.
    Raises:
        SfumatoError: the data do not allow the protocol.
    """

    def __init__(self, splits: Splits, config: EvaluationConfig, plan: Plan) -> None:
        self._plan = plan
        self._reference: HeldOut | None = None
        self._suspicious: float | None = None
        """The distance in features below which two images count as the same."""
        self.labels, self.num_images = distributed.on_main(lambda: self._prepare(splits, config))

    def _prepare(self, splits: Splits, config: EvaluationConfig) -> tuple[Labels | None, int]:
        self._reference = HeldOut(splits, replace(config, memorization=False))
        return self._reference.labels, self._reference.num_images

    def look(self, model: GenerativeModel) -> OnlineScore:
        """The Fréchet distance of the model's samples and its floor, their classes and twins.

        The same in all processes. The model is in evaluation mode and holds the weights to sample
        with.
        """
        labels = self.labels if model.num_classes else None
        images = sample_shared(model, labels, self.num_images, self._plan)

        def measure() -> OnlineScore:
            reference = self._reference
            assert reference is not None
            found = score(ArrayImages(images, labels), reference, by_class=False)
            assert found.features is not None
            counts = found.class_histogram if len(reference.class_names) > 1 else {}
            return OnlineScore(
                {
                    "frechet_distance": found.scores["frechet_distance"].value,
                    "frechet_floor": found.floors["frechet_distance"].value,
                },
                {name: count / len(images) for name, count in counts.items()},
                *self._twins(reference, found.features),
            )

        return distributed.on_main(measure)

    def _twins(self, reference: HeldOut, features: ImageFeatures) -> tuple[float, float]:
        """The share of images with a twin among the others: of generated and of held-out ones."""
        real = reference.real.features.vectors[: reference.num_images]
        if self._suspicious is None:
            training = reference.cache.dataset(reference.splits.train).vectors
            self._suspicious = suspicious_distance(real, training)
        ours, theirs = (duplicates(x, self._suspicious) for x in (features.vectors, real))
        return ours.value, theirs.value


def sample_shared(
    model: GenerativeModel, labels: Labels | None, number: int, plan: Plan
) -> UInt8Images:
    """Images of seeds 0 to number - 1, each process drawing its part; whole in all of them."""
    if distributed.world_size() == 1:
        return sample_images(model, labels, range(number), plan=plan)
    whole = -(-number // distributed.world_size()) * distributed.world_size()
    own = distributed.local_slice(whole)  # equal parts: sharded models need them
    padded = None if labels is None else labels[torch.arange(whole) % number]
    # The same batch size on every rank, so that collectives of sharded models match.
    part = sample_images(
        model, None if padded is None else padded[own], range(own.start, own.stop), BATCH, plan
    )
    images = torch.zeros(whole, *part.shape[1:], dtype=torch.uint8)
    images[own] = part
    return distributed.all_reduce_sum(images)[:number]
