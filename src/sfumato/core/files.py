"""Writing files so that a reader finds the old content or the new, never half of it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfumato.core.fault import fault_point


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
