"""NumPy archives: `x` and `y`, or `x_train, y_train, x_test, y_test`."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from sfumato.core.errors import DataError
from sfumato.data.source import ImageArray, Part, Parts, Source, numbered_classes

LAYOUT = "it should hold x and, if labelled, y (or x_train, y_train, x_test, y_test)"


def npz_file(path: Path, class_names: tuple[str, ...] = ()) -> Source:
    """An .npz of uint8 images, [N, H, W], [N, H, W, C] or [N, C, H, W], and integer labels.

    An array `class_names` of strings names the classes; else `class_names`, if there are as many.
    """

    def read() -> Parts:
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
        except (OSError, EOFError, ValueError, MemoryError, BadZipFile, zlib.error) as error:
            raise DataError(f"cannot read {path}: {error}; {LAYOUT}") from None
        return _parts(path, arrays, class_names)

    return Source(name=path.stem, files=(path,), root=path.parent, read=read)


def _parts(path: Path, archive: Mapping[str, np.ndarray], names: tuple[str, ...]) -> Parts:
    suffix = "_train" if "x_train" in archive else ""
    if f"x{suffix}" not in archive:
        raise DataError(f"{path} holds {sorted(archive)}; {LAYOUT}")
    train = _part(path, archive, suffix)
    test = _part(path, archive, "_test") if "x_test" in archive else None
    if train.labels is None:
        return Parts(train, test, ())
    numbers = numbered_classes(train.labels)
    given = tuple(str(name) for name in archive["class_names"]) if "class_names" in archive else ()
    names = given or (names if len(names) == len(numbers) else numbers)
    if len(names) < len(numbers):
        raise DataError(f"{path} has {len(numbers)} classes but {len(names)} class_names")
    return Parts(train, test, names)


def _part(path: Path, archive: Mapping[str, np.ndarray], suffix: str) -> Part:
    images = _channels_first(path, f"x{suffix}", archive[f"x{suffix}"])
    if f"y{suffix}" not in archive:
        return Part(images, None)
    labels = archive[f"y{suffix}"]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise DataError(
            f"{path}: y{suffix} is {labels.dtype} of shape {labels.shape}; it should be "
            f"{len(images)} class numbers from 0"
        )
    return Part(images, labels.astype(np.int64))


def _channels_first(path: Path, key: str, images: np.ndarray) -> ImageArray:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.size == 0:
        raise DataError(
            f"{path}: {key} is {images.dtype} of shape {images.shape}; it should be uint8 in "
            "0..255, [N, H, W] or [N, H, W, C]"
        )
    if images.ndim == 3:
        return images[:, None]
    if images.shape[3] in (1, 3, 4):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.shape[1] in (1, 3, 4):
        return images
    raise DataError(f"{path}: {key} has shape {images.shape}; images need 1, 3 or 4 channels")
