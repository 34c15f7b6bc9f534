"""A zip or tar of images, read in place: nothing is ever extracted under a name it contains."""

import bz2
import functools
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from sfumato.core.errors import DataError
from sfumato.core.files import atomic_path, cache_folder
from sfumato.data.cache import content_digest, make_folder
from sfumato.data.decode import SUFFIXES
from sfumato.data.folder import divide
from sfumato.data.source import Parts, Records, Source

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
"""How to decompress a file that begins like this."""
MAX_BYTES = 2**30
"""No image file is larger; a member that claims to be is not read."""
MAX_RATIO = 100
"""Images hardly compress: an archive that unpacks to more than this many times its size is an
attack on the disk."""


@dataclass(frozen=True)
class ZipRecords(Records):
    """Members of a zip file."""

    path: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> bytes:
        archive = _open_zip(self.path)
        try:
            if archive.getinfo(self.names[index]).file_size > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES} bytes")
            return archive.read(self.names[index])
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            raise ValueError(str(error)) from None  # damaged, encrypted, unknown compression


@functools.lru_cache(maxsize=4)
def _open_zip(path: Path) -> zipfile.ZipFile:
    """Opening reads the whole directory, so every process does it once."""
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class TarRecords(Records):
    """Members of an uncompressed tar file: (name, position, bytes) each."""

    path: Path
    members: tuple[tuple[str, int, int], ...]

    def __len__(self) -> int:
        return len(self.members)

    def name(self, index: int) -> str:
        return self.members[index][0]

    def read(self, index: int) -> bytes:
        _, position, size = self.members[index]
        with self.path.open("rb") as file:
            file.seek(position)
            content = file.read(size)
        if len(content) < size:
            raise ValueError("the archive ends before it")
        return content


def image_archive(path: Path) -> Source:
    """A zip or tar (also compressed) laid out like an image folder."""

    def read() -> Parts:
        return zip_parts(path) if path.suffix.lower() in ZIP_SUFFIXES else tar_parts(path)

    return Source(name=_stem(path), files=(path,), root=path.parent, read=read)


def zip_parts(path: Path) -> Parts:
    """Splits and classes from the names in a zip file. Raises DataError."""
    try:
        names = [info.filename for info in _open_zip(path).infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {path}: {error}; fetch it again") from None
    chosen = image_names(path, names)
    return divide(chosen, lambda part: ZipRecords(path, tuple(part)))


def tar_parts(path: Path) -> Parts:
    """Splits and classes from the names in a tar file. Raises DataError."""
    plain, members = tar_members(path)
    chosen = image_names(path, list(members))
    return divide(chosen, lambda part: TarRecords(plain, tuple(members[n] for n in part)))


def tar_members(path: Path) -> tuple[Path, dict[str, tuple[str, int, int]]]:
    """An uncompressed copy of a tar file, and its regular files: name -> (name, position, bytes).

    Raises:
        DataError: it cannot be read.
    """
    try:
        plain = uncompressed(path)
        with tarfile.open(plain, "r:") as archive:
            members = {
                member.name: (member.name, member.offset_data, member.size)
                for member in archive
                if member.isreg() and not member.issparse() and member.size <= MAX_BYTES
            }
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"cannot read {path}: {error}; fetch it again") from None
    return plain, members


def image_names(path: Path, names: Sequence[str]) -> list[str]:
    """The names of images, sorted. Raises DataError for names that lead out of the archive."""
    for name in names:
        check_name(path, name)
    chosen = sorted(
        name
        for name in names
        if name.lower().endswith(SUFFIXES)
        and not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    )
    if not chosen:
        raise DataError(f"{path} holds no images ({', '.join(SUFFIXES)}); check what it contains")
    return chosen


def check_name(path: Path, name: str) -> None:
    """Raises DataError for the name of a member that is absolute or climbs out of its folder."""
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.anchor or ".." in windows.parts:
        raise DataError(
            f"{path} has a member named {name!r}, which leads out of the archive; "
            "do not trust this file, fetch it from elsewhere"
        )


def uncompressed(path: Path, suffix: str = ".tar") -> Path:
    """`path` itself, or a copy in the cache that allows random access.

    Raises:
        DataError: it unpacks to more than images do, or the cache cannot be written.
        OSError, EOFError, zlib.error, lzma.LZMAError: it cannot be unpacked.
    """
    with path.open("rb") as file:
        magic = file.read(6)
    opener = next((opener for start, opener in OPENERS.items() if magic.startswith(start)), None)
    if opener is None:
        return path
    folder = make_folder(cache_folder() / "unpacked")
    copy = folder / f"{content_digest([path], path.parent)[:16]}{suffix}"
    if not copy.is_file():
        with opener(path) as stream:
            unpack_stream(stream, copy, MAX_RATIO * path.stat().st_size + 2**20, path)
    return copy


def unpack_stream(stream: BufferedIOBase | IO[bytes], target: Path, limit: int, path: Path) -> None:
    """Write a stream out of the archive `path` to `target`, atomically.

    Raises:
        DataError: it is longer than `limit` bytes.
    """
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        while block := stream.read(2**20):
            limit -= len(block)
            if limit < 0:
                raise DataError(
                    f"{path} unpacks to far more than its size allows, as no set of images does; "
                    "do not trust this file, fetch it from elsewhere"
                )
            file.write(block)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (*TAR_SUFFIXES, *ZIP_SUFFIXES):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    return name
