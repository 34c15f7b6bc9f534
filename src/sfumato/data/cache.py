"""The cache of downloads and packed sets, digests of content, and damaged files."""

import contextlib
import hashlib
import json
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sfumato.core.errors import DataError
from sfumato.core.files import cache_folder, write_json
from sfumato.core.numbers import short_count

DAMAGE = (
    OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError, MemoryError,
    zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip
"""Exceptions that readers raise on damaged files."""


@contextlib.contextmanager
def readable(what: Path | str, remedy: str = "fetch it again") -> Iterator[None]:
    """Read a file inside: a damaged one becomes a DataError that names it and the remedy."""
    try:
        yield
    except DAMAGE as error:
        raise DataError(f"cannot read {what}: {error}; {remedy}") from None


def make_folder(folder: Path) -> Path:
    """Make `folder` in the cache.

    Raises:
        DataError: the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise DataError(
            f"cannot write to the cache {folder}: {reason}; set the environment variable "
            "SFUMATO_CACHE to a writable folder"
        )
    return folder


def require_space(folder: Path, needed: int) -> None:
    """Raises DataError unless `needed` bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder} needs {short_count(needed)}B, but only {short_count(free)}B are free; make "
            "room or set SFUMATO_CACHE to another folder"
        )


def content_digest(files: Sequence[Path], root: Path) -> str:
    """SHA-256 over the names (relative to `root`) and contents of `files`.

    Hashing a large set takes minutes. So the cache keeps the digest under the sizes and
    modification times of the files, unless a file is unreadable.
    """
    stamp = hashlib.sha256()
    for path in files:
        with contextlib.suppress(OSError):
            status = path.stat()
            stamp.update(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    remembered = cache_folder() / "contents" / f"{stamp.hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(remembered.read_text())["content"])
    content, all_read = hashlib.sha256(), True
    with ThreadPoolExecutor() as pool:
        for path, digest in zip(files, pool.map(_digest_or_none, files), strict=True):
            content.update(f"{path.relative_to(root).as_posix()}\0{digest}\n".encode())
            all_read &= digest is not None
    if not all_read:
        return content.hexdigest()
    with contextlib.suppress(OSError):  # a read-only cache may hold the set
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_json(remembered, {"content": content.hexdigest()})
    return content.hexdigest()


def _digest_or_none(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
