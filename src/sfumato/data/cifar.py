"""CIFAR-10 and CIFAR-100 from their binary archives (the Python archives are pickles)."""

import tarfile
import zlib
from pathlib import Path

import numpy as np

from sfumato.core.errors import DataError
from sfumato.data.class_names import CIFAR10
from sfumato.data.download import RemoteFile, fetch
from sfumato.data.source import Part, Parts, Source

HOST = "https://www.cs.toronto.edu/~kriz"
CIFAR10_FILE = RemoteFile(
    name="cifar-10-binary.tar.gz",
    url=f"{HOST}/cifar-10-binary.tar.gz",
    checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
)
CIFAR100_FILE = RemoteFile(
    name="cifar-100-binary.tar.gz",
    url=f"{HOST}/cifar-100-binary.tar.gz",
    checksum="md5:03b5dce01913d631647c71ecec9e9cb8",
)
PIXELS = 3 * 32 * 32
MAX_MEMBER_BYTES = 2**28


def cifar10() -> Source:
    """50,000 training and 10,000 test images, RGB 32x32, ten classes."""
    return cifar_archive(fetch("cifar10", CIFAR10_FILE), "cifar10")


def cifar100() -> Source:
    """50,000 training and 10,000 test images, RGB 32x32, a hundred (fine) classes."""
    return cifar_archive(fetch("cifar100", CIFAR100_FILE), "cifar100")


def cifar_archive(path: Path, name: str) -> Source:
    """A binary archive of either set, recognised by the files in it."""
    return Source(name=name, files=(path,), root=path.parent, read=lambda: _read(path))


def _read(path: Path) -> Parts:
    try:
        members = _members(path)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; delete it to fetch it again") from None
    try:
        if "train.bin" in members:
            names = tuple(members["fine_label_names.txt"].decode().split())
            return Parts(_part(members["train.bin"], 2), _part(members["test.bin"], 2), names)
        batches = b"".join(members[f"data_batch_{number}.bin"] for number in range(1, 6))
        return Parts(_part(batches, 1), _part(members["test_batch.bin"], 1), CIFAR10)
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} is no binary archive of CIFAR: {error}") from None


def _members(path: Path) -> dict[str, bytes]:
    """The files of the archive by their names without folders."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None and member.size <= MAX_MEMBER_BYTES:
                found[Path(member.name).name] = file.read()
    return found


def _part(content: bytes, label_bytes: int) -> Part:
    """Records of labels (for CIFAR-100 coarse, fine) and 3,072 pixels, channels first."""
    records = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + PIXELS)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    return Part(np.ascontiguousarray(images), records[:, label_bytes - 1].astype(np.int64))
