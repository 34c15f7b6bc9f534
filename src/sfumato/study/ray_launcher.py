"""The runs of a study on a Ray cluster. Needs the extra `ray`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.core.errors import ConfigError, RunError, SfumatoError
from sfumato.core.stop import Interrupted, StopRequest
from sfumato.study.evaluators import Evaluators
from sfumato.study.launchers import Task
from sfumato.study.study import Study

MOST_DEATHS = 20
"""A run whose workers die so often is given up: something in it kills them."""


@dataclass(frozen=True)
class RayCluster:
    """Every run is a task of Ray, which chooses where it happens.

    A task whose worker dies is started again by Ray, on that machine or another, and goes on from
    the checkpoint of the run. All machines must see the study's directory under the same path.

    Args:
        address: of the cluster, as `ray.init` takes it; None: the cluster that RAY_ADDRESS names,
            or else one on this machine.
        cpus: cores, and so threads, of a run.
        gpus: of a run; below 1 several runs share one. None: 1 where the cluster has any.
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
        """As many as the cluster has room for."""
        ray = _ray()
        self._connect(ray)
        available, gpus = ray.cluster_resources(), self._gpus(ray)
        room = int(available.get("CPU", 1) // self.cpus)
        if gpus:
            room = min(room, int(available.get("GPU", 0) // gpus))
        return max(1, room)

    def run(
        self,
        study: Study,
        directory: Path,
        tasks: Sequence[Task],
        evaluators: Evaluators,
        tell: Callable[[str], None],
    ) -> Iterator[Task]:
        """See `Launcher.run`."""
        if not tasks:
            return
        ray = _ray()
        self._connect(ray)
        gpus = self._gpus(ray)
        remote = ray.remote(
            num_cpus=self.cpus, num_gpus=gpus, max_retries=MOST_DEATHS, max_calls=1
        )(_work)
        folder = str(directory.resolve())
        began = {
            remote.options(name=f"{arm} seed-{seed}").remote(folder, arm, seed, self.cpus): (
                arm,
                seed,
            )
            for arm, seed in tasks
        }
        tell(
            f"{len(began)} runs on a Ray cluster with {ray.cluster_resources().get('CPU', 0):g} "
            f"cores and {ray.cluster_resources().get('GPU', 0):g} GPUs"
        )
        with StopRequest() as stop:
            try:
                while began:
                    ready, _ = ray.wait(list(began), timeout=0.5)
                    for reference in ready:
                        task = began.pop(reference)
                        _check(ray, reference, task)
                        yield task
                    if stop.requested:
                        raise Interrupted(
                            f"stopped; checkpoints are in {directory}. To go on, repeat the command"
                        )
            finally:
                for reference in began:
                    ray.cancel(reference, force=False)

    def _connect(self, ray: Any) -> None:
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)

    def _gpus(self, ray: Any) -> float:
        if self.gpus is not None:
            return self.gpus
        return 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "--launcher ray needs the package ray, which is not installed; "
            "pip install 'sfumato[ray]'"
        ) from None
    return ray


def _work(directory: str, arm: str, seed: int, cpus: float) -> str | None:
    """One run, in a worker of the cluster; returns an error of the input, if there is one.

    It is returned and not raised: raised errors are pickled, and Ray would not tell them from a
    bug.
    """
    import torch

    from sfumato.study.task import read_study, run_task

    torch.set_num_threads(max(1, int(cpus)))
    try:
        study = read_study(Path(directory))
        run_task(study, Path(directory), arm, seed, Evaluators(study), tell=print)
    except SfumatoError as error:
        return str(error)
    return None


def _check(ray: Any, reference: Any, task: Task) -> None:
    arm, seed = task
    try:
        error = ray.get(reference)
    except ray.exceptions.RayError as trouble:
        raise RunError(
            f"arm {arm!r}, seed {seed} was given up by Ray: {str(trouble).splitlines()[0]}; "
            "repeat the command to go on from its checkpoint"
        ) from None
    if error is not None:
        raise RunError(f"arm {arm!r}, seed {seed}: {error}")
