"""Packing processes: each prepares ranges of consecutive images.

A process ends with its parent, and a hostile file ends that process only. Processes must start
fast, so this module does not import torch.
"""

import hashlib
import json
import os
import pickle
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from sfumato.core.errors import DataError
from sfumato.data.decode import (
    ORIENTATION,
    Preparation,
    UnusableImageError,
    decode,
    is_grey,
    open_image,
    prepare_array,
)
from sfumato.data.source import ArrayFile, Records

TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


@dataclass
class HeaderReport:
    """The headers of some images: the number of images per "height width", and of coloured ones.

    Reports travel between processes as JSON, so their fields are JSON's types.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    num_coloured: int = 0

    def __add__(self, other: "HeaderReport") -> "HeaderReport":
        sizes = dict(Counter(self.sizes) + Counter(other.sizes))
        return HeaderReport(sizes, self.num_coloured + other.num_coloured)

    def common_size(self) -> tuple[int, int]:
        """The most common (height, width); of equally common sizes the smallest."""
        _, height, width = min((-n, *map(int, size.split())) for size, n in self.sizes.items())
        return height, width

    @classmethod
    def crashed(cls, _: int) -> "HeaderReport":
        """An empty report: images with an unreadable header do not count."""
        return cls()


@dataclass
class ChunkReport:
    """The report on prepared images. Rows are numbered from the start of the split.

    Args:
        dropped: row -> [kind, reason] of images that are not in the set.
        notes: kind -> rows of odd images.
        hashes: SHA-256 of each prepared image, in hexadecimal; zeros for dropped ones.
    """

    dropped: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[int]] = field(default_factory=dict)
    hashes: list[str] = field(default_factory=list)

    def __add__(self, other: "ChunkReport") -> "ChunkReport":
        kinds = sorted({*self.notes, *other.notes})
        notes = {kind: self.notes.get(kind, []) + other.notes.get(kind, []) for kind in kinds}
        return ChunkReport(self.dropped | other.dropped, notes, self.hashes + other.hashes)

    @classmethod
    def crashed(cls, row: int) -> "ChunkReport":
        """The report on one image that crashes the decoder."""
        report = cls()
        report.drop(row, "crashed", "the decoder crashed")
        return report

    def drop(self, row: int, kind: str, reason: str) -> None:
        """Leave an image out. Its hash is zeros."""
        self.dropped[str(row)] = [kind, reason]
        self.hashes.append("0" * 64)


@dataclass(frozen=True)
class HeaderJob:
    """Reads the headers of images [start, stop); does not count unusable ones."""

    records: Records

    def __call__(self, start: int, stop: int) -> HeaderReport:
        report = HeaderReport()
        for index in range(start, stop):
            try:
                image = open_image(self.records.read(index))
                turned = image.getexif().get(ORIENTATION) in TURNED
            except (UnusableImageError, OSError, ValueError, SyntaxError):
                continue
            size = f"{image.width} {image.height}" if turned else f"{image.height} {image.width}"
            report.sizes[size] = report.sizes.get(size, 0) + 1
            report.num_coloured += not is_grey(image)
        return report


@dataclass(frozen=True)
class ChunkJob:
    """Prepares images [start, stop) and writes them to their rows of a file.

    Args:
        images: encoded or decoded.
        preparation: the form of the result.
        path: a file whose row 0 begins at `offset` bytes.
    """

    images: Records | ArrayFile
    preparation: Preparation
    path: Path
    offset: int

    def __call__(self, start: int, stop: int) -> ChunkReport:
        prepared, report = prepare_range(self.images, start, stop, self.preparation)
        with self.path.open("rb+") as file:
            file.seek(self.offset + start * prepared[0].nbytes)
            file.write(prepared.data)
            file.flush()
            os.fsync(file.fileno())
        return report


def prepare_range(
    images: Records | ArrayFile, start: int, stop: int, preparation: Preparation
) -> tuple[UInt8[np.ndarray, "n C H W"], ChunkReport]:
    """Images [start, stop) in their final form; dropped ones are black."""
    report = ChunkReport()
    if isinstance(images, ArrayFile):
        prepared = np.ascontiguousarray(prepare_array(images.read(start, stop), preparation))
        report.hashes += [hashlib.sha256(image.data).hexdigest() for image in prepared]
        return prepared, report
    prepared = np.zeros((stop - start, *preparation.shape), np.uint8)
    for row in range(start, stop):
        try:
            decoded = decode(_read(images, row))
            notes = decoded.notes | size_notes(decoded.image.size, preparation)
            prepared[row - start] = preparation(decoded.image)
        except UnusableImageError as error:
            report.drop(row, error.kind, str(error))
            continue
        if preparation.channels > 1 and decoded.image.mode == "L":
            notes.add("grey")
        for note in sorted(notes):
            report.notes.setdefault(note, []).append(row)
        report.hashes.append(hashlib.sha256(prepared[row - start].data).hexdigest())
    return prepared, report


def _read(records: Records, row: int) -> bytes:
    try:
        return records.read(row)
    except (OSError, ValueError) as error:
        raise UnusableImageError("unreadable", str(error)) from None


def size_notes(size: tuple[int, int], preparation: Preparation) -> set[str]:
    """{"enlarged"} if the preparation enlarges an image of `size` (width, height).

    Raises:
        UnusableImageError: a side is below a quarter of the preparation's.
    """
    width, height = size
    if min(width, height) < min(preparation.width, preparation.height) / 4:
        raise UnusableImageError("tiny", f"{width}x{height} pixels")
    smaller = width < preparation.width or height < preparation.height
    return {"enlarged"} if smaller and preparation.fit != "pad" else set()


R = TypeVar("R", HeaderReport, ChunkReport)
Job = Callable[[int, int], R]
"""A picklable function of a range of images [start, stop)."""


def run_ranges(
    job: Job[R], ranges: Sequence[tuple[int, int]], report: type[R], workers: int | None
) -> Iterator[tuple[int, int, R]]:
    """Run `job` on ranges of images in several processes; yield (start, stop, report) as done.

    Args:
        job: runs in another process, which must be able to import its module.
        report: the class of the job's reports.
        workers: number of processes; None is one per core.
    Raises:
        OSError, DataError: as the job raises them.
        RuntimeError: the job raised something else.
    """
    pickled = pickle.dumps(job)
    idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()

    def run(start: int, stop: int) -> R:
        try:
            pool = idle.get_nowait()
        except Empty:
            pool = _start(pickled)
        try:
            answer = json.loads(pool.submit(_answer, start, stop).result())
        except BrokenProcessPool:
            pool.shutdown()
        else:
            idle.put(pool)
            if "error" in answer:
                raise _error(*answer["error"])
            return report(**answer["report"])
        if stop - start == 1:
            return report.crashed(start)
        middle = (start + stop) // 2
        return run(start, middle) + run(middle, stop)

    threads = ThreadPoolExecutor(max(1, min(workers or available_cores(), len(ranges))))
    try:
        futures: dict[Future[R], tuple[int, int]]
        futures = {threads.submit(run, start, stop): (start, stop) for start, stop in ranges}
        done: Future[R]
        for done in as_completed(futures):
            yield (*futures.pop(done), done.result())
    finally:
        threads.shutdown(cancel_futures=True)
        while not idle.empty():
            idle.get().shutdown()


def available_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(job: bytes) -> ProcessPoolExecutor:
    """A pool of one process; starts it at once with the job."""
    with _fresh_interpreter():
        pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, (job,))
        pool.submit(os.getpid)  # the first task starts the process
    return pool


_starting = Lock()


@contextmanager
def _fresh_interpreter() -> Iterator[None]:
    """Start processes that run neither the caller's script nor files of the current folder.

    Without this, `spawn` runs the main script again in each process (so that every script needs
    `if __name__ == "__main__"`), and a `json.py` in the current folder replaces Python's own.
    """
    here = os.path.realpath(Path.cwd())
    others = [entry for entry in sys.path if os.path.realpath(entry or here) != here]
    path = others + [here] * (len(others) < len(sys.path))  # the caller's own modules come last
    variables = {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    with _starting:
        kept = sys.path, sys.modules["__main__"], {name: os.environ.get(name) for name in variables}
        sys.path, sys.modules["__main__"] = path, ModuleType("__main__")
        os.environ.update(variables)
        try:
            yield
        finally:
            sys.path, sys.modules["__main__"], before = kept
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


_job = b""


def _begin(job: bytes) -> None:
    """Prepare a process: it ignores Ctrl-C, prints to stderr only, and ends with its parent."""
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # the standard output belongs to the command
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@lru_cache(maxsize=1)
def _loaded(job: bytes) -> HeaderJob | ChunkJob:
    """The job, from bytes that the parent made of its own object: nothing read from a file."""
    loaded: HeaderJob | ChunkJob = pickle.loads(job)
    return loaded


def _answer(start: int, stop: int) -> str:
    """The job's report on a range, or its error, as JSON, which holds no code."""
    try:
        answer: dict[str, Any] = {"report": asdict(_loaded(_job)(start, stop))}
    except OSError as error:
        answer = {"error": ["OSError", [error.errno, error.strerror or str(error)]]}
    except Exception as error:
        answer = {"error": [type(error).__name__, [str(error)]]}
    return json.dumps(answer)


def _error(kind: str, values: Sequence[Any]) -> Exception:
    """The error of a process: of the same type if callers catch it by type."""
    if kind == "OSError":
        return OSError(*values)
    return DataError(*values) if kind == "DataError" else RuntimeError(f"{kind}: {values[0]}")
