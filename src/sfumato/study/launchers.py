"""Launchers run the tasks of a study: in this process, in several, or on a Ray cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from sfumato.core.distributed import StopRequest
from sfumato.core.errors import ConfigError, Interrupted, RunError, SfumatoError
from sfumato.data.packing_processes import available_cores
from sfumato.study.task import Work, run_task, title

Task = tuple[str, int]
"""An arm and a seed."""
LOGS = "logs"


@runtime_checkable
class Launcher(Protocol):
    """Runs tasks and yields each when it is done."""

    @property
    def at_once(self) -> int:
        """Number of runs at the same time."""
        ...

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Task]:
        """Run the tasks; the caller may write results between them.

        Raises:
            Interrupted: stopped; the current runs have saved their state.
            SfumatoError: a run failed.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """One run after another, in this process."""

    at_once = 1

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Task]:
        """See `Launcher.run`."""
        for arm, seed in tasks:
            run_task(work, arm, seed)
            yield arm, seed


@dataclass(frozen=True)
class Processes:
    """Several runs at once on one machine, each in a process with its share of the machine.

    A process gets an equal share of the cores as threads. GPUs are assigned in turn: four
    processes on four GPUs get one each; a single GPU is shared by all. Messages of the processes
    go to files in `logs`.

    Args:
        at_once: number of processes.
    """

    at_once: int

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise ConfigError(f"--jobs should be at least 1, got {self.at_once}")

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Task]:
        """See `Launcher.run`."""
        directory = work.directory
        (directory / LOGS).mkdir(exist_ok=True)
        waiting, running = deque(tasks), dict[int, tuple[Task, subprocess.Popen[str]]]()
        with StopRequest() as stop:
            try:
                while waiting or running:
                    for place in range(self.at_once):
                        if waiting and place not in running and not stop.requested:
                            task = waiting.popleft()
                            running[place] = task, self._start(directory, task, place)
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
        environment = os.environ | share_of_machine(place, self.at_once)
        command = [sys.executable, "-m", "sfumato.study.task", str(directory), *map(str, task)]
        with _log(directory, task).open("a") as file:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,  # Ctrl-C reaches this process alone, which stops the others
            )


def _log(directory: Path, task: Task) -> Path:
    return directory / LOGS / f"{title(*task)}.log"


def share_of_machine(place: int, at_once: int) -> dict[str, str]:
    """Environment variables that give the `place`-th of several processes its share."""
    threads = max(1, available_cores() // at_once)
    variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    gpus = torch.cuda.device_count()
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(k) for k in range(gpus)]
        variables["CUDA_VISIBLE_DEVICES"] = names[place % gpus]
    return variables


def _check(process: "subprocess.Popen[str]", task: Task, directory: Path) -> None:
    """Raise the error that ended a process, if any."""
    assert process.stdout is not None
    said = process.stdout.read().strip().splitlines()
    if process.returncode == 0:
        return
    arm, seed = task
    try:
        error = json.loads(said[-1])
    except (IndexError, ValueError):
        raise RunError(
            f"the process of arm {arm!r}, seed {seed} ended with code {process.returncode}; "
            f"its last words are in {_log(directory, task)}. The same command continues from its "
            "checkpoint"
        ) from None
    kind = Interrupted if error["kind"] == "Interrupted" else RunError
    raise kind(f"arm {arm!r}, seed {seed}: {error['message']}")


def _stop(processes: Sequence["subprocess.Popen[str]"]) -> None:
    """Ask processes to save and exit, and wait for them."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait()


MOST_DEATHS = 20
"""Ray gives up a run whose workers died this often: something in it kills them."""


@dataclass(frozen=True)
class RayCluster:
    """Every run is a task of Ray, which chooses the machine.

    Ray restarts a task whose worker dies, on any machine; the run continues from its checkpoint.
    All machines must see the study's directory under the same path.

    Args:
        address: of the cluster, as for `ray.init`; None is the cluster that RAY_ADDRESS names,
            or a new one on this machine.
        cpus: cores, and thus threads, per run.
        gpus: per run; below 1 several runs share one. None is 1 if the cluster has any.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.cpus <= 0 or (self.gpus is not None and self.gpus < 0):
            raise ConfigError(
                f"--cpus should be above 0 and --gpus at least 0, got {self.cpus} and {self.gpus}"
            )

    @property
    def at_once(self) -> int:
        """The number of runs that fit on the cluster."""
        _, found, gpus = self._connected()
        room = int(found.get("CPU", 1) // self.cpus)
        if gpus:
            room = min(room, int(found.get("GPU", 0) // gpus))
        return max(1, room)

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Task]:
        """See `Launcher.run`."""
        if not tasks:
            return
        ray, found, gpus = self._connected()
        remote = ray.remote(
            num_cpus=self.cpus, num_gpus=gpus, max_retries=MOST_DEATHS, max_calls=1
        )(_work)
        folder = str(work.directory.resolve())
        began = {
            remote.options(name=title(*task)).remote(folder, *task, self.cpus): task
            for task in tasks
        }
        work.log(
            f"{len(began)} runs on a Ray cluster with {found.get('CPU', 0):g} cores and "
            f"{found.get('GPU', 0):g} GPUs"
        )
        with StopRequest() as stop:
            try:
                while began:
                    ready, _ = ray.wait(list(began), timeout=0.5)
                    for reference in ready:
                        task = began.pop(reference)
                        _check_worker(ray, reference, task)
                        yield task
                    if stop.requested:
                        raise Interrupted(
                            f"stopped; checkpoints are in {folder}. To go on, repeat the command"
                        )
            finally:
                for reference in began:
                    ray.cancel(reference, force=False)

    def _connected(self) -> tuple[Any, dict[str, float], float]:
        """The module ray, the resources of the cluster, and the GPUs per run."""
        try:
            import ray as module
        except ImportError:
            raise ConfigError(
                "--launcher ray needs the package ray, which is not installed; "
                "pip install 'sfumato[ray]'"
            ) from None
        ray: Any = module  # it has no types
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        found = ray.cluster_resources()
        gpus = int(found.get("GPU", 0) >= 1) if self.gpus is None else self.gpus
        return ray, found, gpus


def _work(directory: str, arm: str, seed: int, cpus: float) -> str | None:
    """One run in a worker of the cluster; returns the message of a user's error, else None.

    A raised error would be pickled, and to Ray it would look like a bug.
    """
    torch.set_num_threads(max(1, int(cpus)))
    try:
        run_task(Work.at(Path(directory), print), arm, seed)
    except SfumatoError as error:
        return str(error)
    return None


def _check_worker(ray: Any, reference: Any, task: Task) -> None:
    arm, seed = task
    try:
        error = ray.get(reference)
    except ray.exceptions.RayError as trouble:
        raise RunError(
            f"Ray gave up arm {arm!r}, seed {seed}: {str(trouble).splitlines()[0]}; "
            "repeat the command to continue from its checkpoint"
        ) from None
    if error is not None:
        raise RunError(f"arm {arm!r}, seed {seed}: {error}")
