"""Downloads files: verifies them, resumes broken downloads, tries a mirror first."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock

from sfumato.core.console import progress_bar
from sfumato.core.errors import DataError
from sfumato.core.files import cache_folder, write_json
from sfumato.data.cache import make_folder

pooch.get_logger().setLevel("WARNING")  # the progress bar is enough

PATIENCE = 5
"""Number of attempts in a row without a new byte before giving up an address."""
PAUSE = 0.5
"""Seconds before the second attempt; every further pause is twice as long."""
TIMEOUT = (10, 60)
"""Most seconds to connect, and without a byte."""
BYTES_PER_BLOCK = 2**18


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch. `checksum` is "md5:..." or "sha256:..."; None if none is published."""

    name: str
    url: str
    checksum: str | None


def md5_file(url: str, md5: str) -> RemoteFile:
    """The file at `url`, named by the last part of its address."""
    return RemoteFile(url.rsplit("/", 1)[1], url, f"md5:{md5}")


class BrokenDownloadError(Exception):
    """The connection ended early; another attempt may help."""


def fetch(dataset: str, file: RemoteFile) -> Path:
    """The local path of a file of a data set; downloads it if necessary.

    Tries SFUMATO_MIRROR/<dataset>/<name> first if that variable is set.

    Raises:
        DataError: the file is unavailable; the message names the place to put it.
    """
    folder = make_folder(cache_folder() / "downloads" / dataset)
    path = folder / file.name
    with FileLock(folder / f".{file.name}.lock"):
        if path.is_file():
            _verify(path, file)
            return path
        reasons = [reason for url in _addresses(dataset, file) if (reason := _try(url, path, file))]
    if path.is_file():
        return path
    wanted = f" ({file.checksum})" if file.checksum else ""
    raise DataError(
        f"cannot download {file.name}: {'; '.join(reasons)}. Put the file{wanted} at {path}, or "
        f"set SFUMATO_MIRROR to an address with {dataset}/{file.name}"
    )


def _addresses(dataset: str, file: RemoteFile) -> list[str]:
    mirror = os.environ.get("SFUMATO_MIRROR")
    return [*([f"{mirror.rstrip('/')}/{dataset}/{file.name}"] if mirror else []), file.url]


def _verify(path: Path, file: RemoteFile) -> None:
    """Check an existing file, once per version."""
    if file.checksum is None:
        return
    status, marker = path.stat(), path.with_name(f".{path.name}.verified")
    stamp = f"{status.st_size} {status.st_mtime_ns} {file.checksum}"
    if marker.is_file() and marker.read_text() == stamp:
        return
    algorithm, _, expected = file.checksum.partition(":")
    found = pooch.file_hash(str(path), alg=algorithm)
    if found != expected:
        raise DataError(
            f"{path} is damaged or another version: its {algorithm} is {found}, expected "
            f"{expected}; delete it to download it again, or replace it"
        )
    marker.write_text(stamp)


def _try(url: str, path: Path, file: RemoteFile) -> str | None:
    """Download from one address, twice if it arrives corrupted. Returns the reason of failure."""
    if path.is_file():
        return None
    reason = ""
    for _ in range(2):
        try:
            pooch.retrieve(
                url,
                known_hash=file.checksum,
                fname=path.name,
                path=path.parent,
                downloader=ResumingDownloader(path),
            )
            return None
        except ValueError as error:  # pooch: the checksum differs
            reason = f"{url}: {str(error).splitlines()[0]}"
        except (requests.RequestException, BrokenDownloadError) as error:
            return f"{url}: {_short(error)}"
    return reason


def _short(error: Exception) -> str:
    """The innermost reason of a chain of connection errors."""
    cause: Any = error
    while isinstance(cause, Exception) and cause.args and isinstance(cause.args[0], Exception):
        cause = cause.args[0]
    return str(getattr(cause, "reason", None) or cause)


class ResumingDownloader:
    """A downloader for pooch that continues after broken connections, also in a later process.

    The received bytes stay beside `path`, with the server's tag of the version of the file. So it
    never joins parts of two versions.
    """

    def __init__(self, path: Path) -> None:
        self._part = path.with_name(f".{path.name}.part")
        self._tag = path.with_name(f".{path.name}.part.json")

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        """Download `url` to `output_file`. Raises BrokenDownloadError, RequestException."""
        without_progress = 0
        while True:
            before = self._size()
            try:
                self._attempt(url)
                break
            except (BrokenDownloadError, requests.ConnectionError, requests.Timeout) as error:
                without_progress = 0 if self._size() > before else without_progress + 1
                if without_progress >= PATIENCE:
                    raise BrokenDownloadError(f"it keeps breaking off: {_short(error)}") from None
                time.sleep(PAUSE * 2**without_progress)
        shutil.move(self._part, output_file)
        self._tag.unlink(missing_ok=True)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _attempt(self, url: str) -> None:
        """Fetch the missing bytes. Raises BrokenDownloadError if the download ends early."""
        have = self._size() if self._tag_of(url) else 0
        headers = {"Accept-Encoding": "identity"}  # sizes below are those of the file itself
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": self._tag_of(url)}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 416:  # the server has no further bytes: start again
                self._part.unlink()
                raise BrokenDownloadError("the server has less than was received")
            if response.status_code in (429, 500, 502, 503, 504):
                raise BrokenDownloadError(f"status {response.status_code} {response.reason}")
            response.raise_for_status()
            if response.status_code != 206:
                have = 0  # the server sends the whole file
                tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
                write_json(self._tag, {"url": url, "tag": tag})
            total = _total(response.headers, have)
            self._receive(response, have, total)
        if total is not None and self._size() != total:
            raise BrokenDownloadError(f"{self._size()} of {total} bytes arrived")

    def _receive(self, response: requests.Response, have: int, total: int | None) -> None:
        name = self._part.name.removeprefix(".").removesuffix(".part")
        bar = progress_bar(f"downloading {name}", total, have, in_bytes=True)
        with self._part.open("ab") as file, bar as update:
            file.truncate(have)
            try:
                for block in response.iter_content(BYTES_PER_BLOCK):
                    file.write(block)
                    update(have := have + len(block))
            except requests.exceptions.ChunkedEncodingError as error:
                raise BrokenDownloadError(_short(error)) from None

    def _tag_of(self, url: str) -> str:
        """The tag of the received bytes; "" without one that promises equal bytes."""
        try:
            found = json.loads(self._tag.read_text())
        except (OSError, ValueError):
            return ""
        tag = str(found.get("tag") or "") if found.get("url") == url else ""
        return "" if tag.startswith("W/") else tag  # W/ marks a weak tag


def _total(headers: Mapping[str, str], have: int) -> int | None:
    """The size of the whole file, if the server states it."""
    _, slash, total = headers.get("Content-Range", "").partition("/")
    if slash and total.isdigit():
        return int(total)
    length = headers.get("Content-Length", "")
    return have + int(length) if length.isdigit() else None
