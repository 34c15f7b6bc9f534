"""Where the runs of a study happen: in this process, in several, or on a Ray cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from sfumato.core.errors import ConfigError, RunError
from sfumato.core.stop import Interrupted, StopRequest
from sfumato.study.evaluators import Evaluators
from sfumato.study.study import Study
from sfumato.study.task import run_task

Task = tuple[str, int]
"""An arm and a seed."""
LOGS = "logs"


@runtime_checkable
class Launcher(Protocol):
    """Runs tasks; yields each when it is done."""

    @property
    def at_once(self) -> int:
        """How many run at the same time."""
        ...

    def run(
        self,
        study: Study,
        directory: Path,
        tasks: Sequence[Task],
        evaluators: Evaluators,
        tell: Callable[[str], None],
    ) -> Iterator[Task]:
        """Do the tasks; results may be written between them.

        Raises:
            Interrupted: stopped; what was running is saved.
            SfumatoError: a run failed.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """One run after another, in this process."""

    at_once = 1

    def run(
        self,
        study: Study,
        directory: Path,
        tasks: Sequence[Task],
        evaluators: Evaluators,
        tell: Callable[[str], None],
    ) -> Iterator[Task]:
        """See `Launcher.run`."""
        for arm, seed in tasks:
            run_task(study, directory, arm, seed, evaluators, tell)
            yield arm, seed


@dataclass(frozen=True)
class Processes:
    """Several runs at once on one machine, each in a process with its share of it.

    A process gets an equal share of the cores as threads. GPUs are dealt out in turn: with four of
    them and four processes each has one; with one GPU all share it. What the processes say goes to
    files in `logs`.

    Args:
        at_once: how many.
    """

    at_once: int

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise ConfigError(f"--jobs should be at least 1, got {self.at_once}")

    def run(
        self,
        study: Study,
        directory: Path,
        tasks: Sequence[Task],
        evaluators: Evaluators,
        tell: Callable[[str], None],
    ) -> Iterator[Task]:
        """See `Launcher.run`."""
        (directory / LOGS).mkdir(exist_ok=True)
        waiting, running = deque(tasks), dict[int, tuple[Task, subprocess.Popen[str]]]()
        with StopRequest() as stop:
            try:
                while waiting or running:
                    for place in range(self.at_once):
                        if waiting and place not in running and not stop.requested:
                            running[place] = (
                                waiting[0],
                                self._start(directory, waiting.popleft(), place),
                            )
                    for place, (task, process) in list(running.items()):
                        if process.poll() is not None:
                            del running[place]
                            _check(process, task, directory)
                            yield task
                    if stop.requested:
                        break
                    time.sleep(0.2)
            finally:
                _stop([process for _, process in running.values()])
            if stop.requested:
                raise Interrupted(
                    f"stopped; everything is saved in {directory}. To go on, repeat the command"
                )

    def _start(self, directory: Path, task: Task, place: int) -> "subprocess.Popen[str]":
        arm, seed = task
        log = directory / LOGS / f"{arm} seed-{seed}.log"
        environment = os.environ | share_of_machine(place, self.at_once)
        command = [sys.executable, "-m", "sfumato.study.task", str(directory), arm, str(seed)]
        with log.open("a") as file:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,  # Ctrl-C reaches this process alone, which stops the others
            )


def share_of_machine(place: int, at_once: int) -> dict[str, str]:
    """Environment variables that give the `place`-th of several processes its share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores or 1) // at_once)
    variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    gpus = torch.cuda.device_count()
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(k) for k in range(gpus)]
        variables["CUDA_VISIBLE_DEVICES"] = names[place % gpus]
    return variables


def _check(process: "subprocess.Popen[str]", task: Task, directory: Path) -> None:
    """Raise what ended a process, unless it did its work."""
    assert process.stdout is not None
    said = process.stdout.read().strip().splitlines()
    if process.returncode == 0:
        return
    arm, seed = task
    log = directory / LOGS / f"{arm} seed-{seed}.log"
    try:
        error = json.loads(said[-1])
    except (IndexError, ValueError):
        raise RunError(
            f"the process of arm {arm!r}, seed {seed} ended with code {process.returncode}; "
            f"its last words are in {log}. The same command goes on from its checkpoint"
        ) from None
    kind = Interrupted if error["kind"] == "Interrupted" else RunError
    raise kind(f"arm {arm!r}, seed {seed}: {error['message']}")


def _stop(processes: Sequence["subprocess.Popen[str]"]) -> None:
    """Ask processes to save and end, and wait until they have."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait()
