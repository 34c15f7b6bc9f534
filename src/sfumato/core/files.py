"""Writing files so that a reader finds the old content or the new, never half of it."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FaultHandler = Callable[[str, Path], None]

_fault_handler: FaultHandler | None = None


def fault_point(name: str, path: Path) -> None:
    """A place where a process may die: a test proves that nothing is lost there.

    Does nothing unless a handler is installed. The handler gets the name of the place and the file
    in question, and may end the process.
    """
    if _fault_handler is not None:
        _fault_handler(name, path)


def install_fault_handler(handler: FaultHandler | None) -> None:
    """Call `handler` at every fault point of this process; None removes it."""
    global _fault_handler
    _fault_handler = handler


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it.

    On an exception the temporary file is removed and `path` stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        fault_point("write", temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        fault_point("rename", temporary)
        temporary.replace(path)
        fault_point("renamed", path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def partial_files(directory: Path) -> list[Path]:
    """The temporary files in `directory`, which processes that were killed leave behind."""
    return sorted(directory.glob(".*.partial"))


def sync_directory(path: Path) -> None:
    """Make a rename inside `path` durable (a no-op where directories cannot be opened)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """The folder SFUMATO_CACHE, or `sfumato` in the user's cache folder."""
    if chosen := os.environ.get("SFUMATO_CACHE"):
        return Path(chosen).expanduser()
    import pooch  # slow to import, and packing processes come here too

    return Path(pooch.os_cache("sfumato"))
