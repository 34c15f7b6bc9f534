"""Processes that decode images, and outlive neither their parent nor a hostile file.

They are started as programs of their own rather than forked or spawned by multiprocessing, so
that a script needs no `if __name__ == "__main__"`, no thread of torch is copied, and a process
that dies on a bad file is replaced.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
Job = Callable[[int, int], T]
"""A picklable function of a range of images [start, stop)."""


class WorkerDiedError(Exception):
    """The process ended without an answer."""


class _Worker(Generic[T]):
    """One process that runs a job on ranges."""

    def __init__(self, job: bytes) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sfumato.data.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._send(job)

    def run(self, start: int, stop: int) -> T:
        """The result for a range. Raises what the job raises, or WorkerDiedError."""
        self._send(pickle.dumps((start, stop)))
        assert self._process.stdout is not None
        try:
            succeeded, answer = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise WorkerDiedError from None
        if not succeeded:
            raise answer
        return answer  # type: ignore[no-any-return]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _send(self, message: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(message)
            self._process.stdin.flush()
        except OSError:
            raise WorkerDiedError from None


def run_ranges(
    job: Job[T],
    ranges: Sequence[tuple[int, int]],
    crashed: Callable[[int], T],
    merge: Callable[[T, T], T],
    workers: int | None,
) -> Iterator[tuple[int, int, T]]:
    """Run `job` on ranges of images in several processes; yield (start, stop, result) as done.

    Args:
        job: picklable; it runs in another process.
        crashed: the result for the one image on which the process dies.
        merge: joins the results of a range that had to be divided to find that image.
        workers: processes; None is one a core.
    """
    pickled = pickle.dumps(job)
    count = max(1, min(workers or available_cores(), len(ranges)))
    idle: SimpleQueue[_Worker[T]] = SimpleQueue()

    def run(start: int, stop: int) -> T:
        worker = _idle_or_new(idle, pickled)
        try:
            result = worker.run(start, stop)
        except WorkerDiedError:
            worker.close()
        except BaseException:
            worker.close()
            raise
        else:
            idle.put(worker)
            return result
        if stop - start == 1:
            return crashed(start)
        middle = (start + stop) // 2
        return merge(run(start, middle), run(middle, stop))

    executor = ThreadPoolExecutor(count)
    try:
        futures = {executor.submit(run, start, stop): (start, stop) for start, stop in ranges}
        for future in as_completed(futures):
            yield (*futures.pop(future), future.result())
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        while not idle.empty():
            idle.get().close()


def _idle_or_new(idle: "SimpleQueue[_Worker[T]]", job: bytes) -> _Worker[T]:
    try:
        return idle.get_nowait()
    except Empty:
        return _Worker(job)


def available_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
