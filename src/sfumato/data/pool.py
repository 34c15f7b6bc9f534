"""Processes that decode images, and outlive neither their parent nor a hostile file.

They are started as programs of their own rather than forked or spawned by multiprocessing, so
that a script needs no `if __name__ == "__main__"`, no thread of torch is copied, and a process
that dies on a bad file is replaced.
"""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from sfumato.core.errors import DataError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class Answer(Protocol[T_co]):
    """What makes a result of the plain values that a process answers with (`to_json`)."""

    def from_json(self, found: dict[str, Any]) -> T_co: ...


@runtime_checkable
class Job(Protocol[T_co]):
    """A picklable function of a range of images [start, stop).

    The job is pickled on its way to a process. Answers are JSON: the process reads files that
    nobody vouches for, and what comes back from it shall be unable to execute anything.
    """

    @property
    def answer(self) -> Answer[T_co]: ...

    def __call__(self, start: int, stop: int) -> T_co: ...


class WorkerDiedError(Exception):
    """The process ended without an answer."""


class _Worker(Generic[T]):
    """One process that runs a job on ranges."""

    def __init__(self, job: bytes, answer: Answer[T]) -> None:
        self._answer = answer
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
        self._send(json.dumps([start, stop]).encode() + b"\n")
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise WorkerDiedError
        found = json.loads(line)
        if "error" in found:
            raise _error(*found["error"])
        return self._answer.from_json(found["answer"])

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


def _error(kind: str, values: Sequence[Any]) -> Exception:
    """The error of a process: as it was where callers tell it apart, else by name."""
    if kind == "OSError":
        return OSError(*values)
    return DataError(*values) if kind == "DataError" else RuntimeError(f"{kind}: {values[0]}")


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
        worker = _idle_or_new(idle, pickled, job.answer)
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


def _idle_or_new(idle: "SimpleQueue[_Worker[T]]", job: bytes, answer: Answer[T]) -> _Worker[T]:
    try:
        return idle.get_nowait()
    except Empty:
        return _Worker(job, answer)


def available_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
