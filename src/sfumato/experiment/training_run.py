"""Training: from an experiment to a run directory."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfumato.core import distributed
from sfumato.core.config import to_mapping
from sfumato.core.device import default_device
from sfumato.core.errors import RunError
from sfumato.core.files import write_json
from sfumato.data.catalogue import load
from sfumato.experiment.build import build_model
from sfumato.experiment.experiment import Experiment
from sfumato.runs import directory as run_directory
from sfumato.speed.plan import KEYS, with_plan
from sfumato.speed.plan_search import choose_plan
from sfumato.training.session import Session
from sfumato.training.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """A finished run: where it is and what it took."""

    directory: Path
    summary: dict[str, Any]


def _as_begun(experiment: Experiment, run_dir: Path) -> Experiment:
    """The experiment with what the run settled at its start, where it leaves that open.

    That is the length of the decay and the performance plan.
    """
    given, recorded = experiment.training, run_directory.read_experiment(run_dir).training
    settled: dict[str, Any] = {
        key: getattr(recorded, key) for key in KEYS if getattr(given, key) == "auto"
    }
    if given.decay_images is None:
        settled["decay_images"] = recorded.decay_images
    return replace(experiment, training=replace(given, **settled))


def with_decay_fixed(experiment: Experiment) -> Experiment:
    """The experiment with the length of the learning-rate decay fixed to its first budget."""
    config = experiment.training
    if config.decay_images is not None:
        return experiment
    if config.budget_images is not None:
        decay = config.budget_images
    elif config.budget_steps is not None:
        decay = config.budget_steps * config.batch_size
    else:
        return experiment
    return replace(experiment, training=replace(config, decay_images=decay))


def train(
    experiment: Experiment,
    run_dir: Path,
    *,
    resume: bool = False,
    force: bool = False,
    tell: Callable[[str], None] = print,
) -> Run:
    """Train a model and write its run directory.

    In a process group every process calls this; the main one writes and speaks.

    Args:
        experiment: what to train, on what, for how long.
        run_dir: must not exist yet, or hold an interrupted run when `resume` is true.
        resume: continue from the newest sound checkpoint (or from the start if there is none).
        force: resume in spite of a changed config, or of changed images.
        tell: receives messages for the user.
    Raises:
        RunError: the directory exists, is in use, or holds a run of another config or of
            other images; or training diverged, and again at a lower learning rate.
        Interrupted: stopped by Ctrl-C or SIGTERM, after saving a checkpoint.
    """
    experiment, resuming = distributed.on_main(
        lambda: _resolved(experiment, run_dir, resume, force)
    )
    splits, device = load(experiment.data), default_device()
    choice = choose_plan(experiment, splits.train, device)
    experiment = with_plan(experiment, choice.plan)
    if choice.candidates and distributed.is_main():
        tell(f"performance: {choice}")
    model = build_model(experiment, splits.train)
    trainer = Trainer(experiment.training, model, device, experiment.data.augment)

    def open_directory() -> None:
        stack.enter_context(run_directory.locked(run_dir))
        if not resuming:
            run_directory.create(run_dir, experiment)
        run_directory.check_same_data(run_dir, splits.train, force)
        run_directory.clean(run_dir)
        write_json(run_dir / "config.json", to_mapping(experiment))
        if not (run_dir / "performance.json").exists():
            write_json(run_dir / "performance.json", choice.to_mapping())
        write_json(run_dir / "data.json", run_directory.describe(splits.train))

    with contextlib.ExitStack() as stack:
        distributed.on_main(open_directory)
        heard = tell if distributed.is_main() else _say_nothing
        session = Session(run_dir, experiment, trainer, splits, heard)
        session.run()
        summary = _summary(session)
        if distributed.is_main():
            write_json(run_dir / "summary.json", summary)
        distributed.barrier()
        return Run(run_dir, summary)


def _resolved(
    experiment: Experiment, run_dir: Path, resume: bool, force: bool
) -> tuple[Experiment, bool]:
    """The experiment with its decay fixed, and whether a run is continued."""
    if resume and not run_directory.is_blank(run_dir):
        if not (run_dir / "config.json").exists():
            raise RunError(
                f"{run_dir} is not a run directory: it has no config.json; check the path"
            )
        run_directory.check_same_experiment(run_dir, experiment, force)
        return with_decay_fixed(_as_begun(experiment, run_dir)), True
    run_directory.check_new(run_dir)
    return with_decay_fixed(experiment), False


def _summary(session: Session) -> dict[str, Any]:
    """What summary.json says of a finished run."""
    trainer, position = session.trainer, session.trainer.position
    model = trainer.model
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "sampled_parameters": sum(p.numel() for p in model.sampled_module.parameters()),
        "nfe": model.nfe,
        "images_seen": position.images,
        "steps": position.step,
        "train_seconds": position.seconds,
        "images_per_second": position.images / max(position.seconds, 1e-9),
        "processes": distributed.world_size(),
        "rate_factor": trainer.rate_factor,
        "best": None if session.best is None else to_mapping(session.best),
        "warnings": session.doctor.warnings,
    }


def _say_nothing(message: str) -> None:
    """The main process speaks for all."""
