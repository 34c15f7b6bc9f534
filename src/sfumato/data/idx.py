"""The idx format of MNIST and its relatives, plain or gzip."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from sfumato.core.errors import DataError
from sfumato.data.source import Part, Parts, Source, numbered_classes

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx_folder(folder: Path, name: str, class_names: tuple[str, ...] = ()) -> Source:
    """A folder with the idx files under MNIST's names, `.gz` or not; the test files may lack.

    Raises:
        DataError: a training file is missing.
    """
    found = {split: [find_idx(folder, file) for file in NAMES[split]] for split in NAMES}
    for file, path in zip(NAMES["train"], found["train"], strict=True):
        if path is None:
            raise DataError(f"{folder} has no {file}.gz; put it there")
    files = tuple(path for paths in found.values() for path in paths if path is not None)

    def read() -> Parts:
        train = _read_part(found["train"])
        test = None if None in found["test"] else _read_part(found["test"])
        assert train.labels is not None
        return Parts(train, test, class_names or numbered_classes(train.labels))

    return Source(name=name, files=files, root=folder, read=read)


def find_idx(folder: Path, name: str) -> Path | None:
    """The file `name` or `name`.gz in `folder`."""
    candidates = (folder / f"{name}.gz", folder / name, folder / name.replace("-idx", ".idx"))
    return next((path for path in candidates if path.is_file()), None)


def _read_part(paths: list[Path | None]) -> Part:
    image_path, label_path = paths
    assert image_path is not None
    assert label_path is not None
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{image_path} holds an array of shape {images.shape} and {label_path} one of "
            f"{labels.shape}; expected [N, H, W] and [N]: fetch them again"
        )
    return Part(images[:, None], labels.astype(np.int64))


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Read an idx file of unsigned bytes, compressed or not.

    Raises:
        DataError: unreadable, truncated, or not idx.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; fetch it again") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{path} is not an idx file of unsigned bytes; fetch it again")
    num_dimensions = content[3]
    header = 4 + 4 * num_dimensions
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4"))
    expected = int(np.prod(shape, dtype=object))
    if len(shape) < num_dimensions or len(content) - header != expected:
        raise DataError(
            f"{path} is damaged: shape {list(shape)} needs {expected} bytes of values, "
            f"found {max(len(content) - header, 0)}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
