"""From a source to packed splits: in memory, or once and for all in the cache."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from sfumato.core.errors import DataError
from sfumato.core.files import cache_folder
from sfumato.data.cache import content_digest, make_folder
from sfumato.data.chunk import prepare_array
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import image_hashes
from sfumato.data.packed import FORMAT, Packed, is_packed, read_packed, write_packed
from sfumato.data.prepare import Preparation
from sfumato.data.records import pack_records, scan_records
from sfumato.data.source import JoinedRecords, Part, Parts, Records, Source, StoredImages
from sfumato.data.split import Hashes, first_of_each
from sfumato.data.summary import Summary

log = logging.getLogger("sfumato.data")


@dataclass(frozen=True)
class PackedParts:
    """The packed splits as the source divides them."""

    train: Packed
    test: Packed | None
    folder: Path | None
    """Where they are; None in memory."""


def is_packed_source(folder: Path) -> bool:
    """Whether `folder` was written by `sfumato data pack --output`."""
    return is_packed(folder / "train")


def packed_folder(folder: Path) -> Source:
    """A packed set as a source: it is read where it is."""

    def refuse() -> Parts:
        raise AssertionError("a packed set is not packed again")

    return Source(folder.resolve().name, files=(), root=folder, read=refuse, is_packed=True)


def pack(source: Source, config: DataConfig, strict: bool, workers: int | None) -> PackedParts:
    """The packed form of `source`, from the cache if it is there.

    Raises:
        DataError: it cannot be read, the cache cannot be written, or `strict` and something is
            odd about an image.
    """
    if source.is_packed:
        return _open(source.root, source, config, strict)
    if not source.files:
        parts = source.read()
        preparation = _resolve(source, parts, config, workers)
        test = None if parts.test is None else _in_memory(parts.test, parts, preparation)
        return PackedParts(_in_memory(parts.train, parts, preparation), test, None)
    folder = cache_folder() / "packed" / f"{source.name}-{_key(source, config)}"
    if not is_packed(folder / "train"):
        make_folder(folder.parent)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not is_packed(folder / "train"):  # nor has another process packed it meanwhile
                _pack_into(folder, source, config, workers)
    return _open(folder, source, config, strict)


def _open(folder: Path, source: Source, config: DataConfig, strict: bool) -> PackedParts:
    train = read_packed(folder / "train")
    test = read_packed(folder / "test") if is_packed(folder / "test") else None
    has = train.preparation
    wanted_size, wanted_channels = config.size, config.channels
    if wanted_size not in (None, (has.height, has.width)) or wanted_channels not in (
        "auto",
        has.channels,
    ):
        raise DataError(
            f"{source.name} is packed as {has.channels} x {has.height} x {has.width}, but "
            f"resolution is {config.resolution} and channels {config.channels}; pack it again "
            "from its source, or leave them on auto"
        )
    if strict:
        _refuse_odd(source, train, test)
    return PackedParts(train, test, folder)


def _key(source: Source, config: DataConfig) -> str:
    """A name for (content, preparation): equal for equal ones, wherever the files lie."""
    content = content_digest(source.files, source.root)
    asked = [FORMAT, content, config.size, config.channels, config.fit, config.resize]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _both(parts: Parts) -> tuple[Part, Part | None]:
    return parts.train, parts.test


def _in_memory(part: Part, parts: Parts, preparation: Preparation) -> Packed:
    assert isinstance(part.images, np.ndarray)
    images = prepare_array(part.images, preparation)
    hashes = image_hashes(images)
    summary = Summary()
    _note_duplicates(summary, hashes)
    return Packed(images, part.labels, hashes, parts.class_names, preparation, summary)


def _pack_into(folder: Path, source: Source, config: DataConfig, workers: int | None) -> None:
    """Pack into a folder beside `folder`, which a later call can continue, and rename it."""
    parts = source.read()
    work = folder.with_name(f"{folder.name}.partial")
    try:
        preparation = _resolve(source, parts, config, workers)
        for name, part in (("train", parts.train), ("test", parts.test)):
            if part is None or is_packed(work / name):
                continue
            if isinstance(part.images, np.ndarray):
                write_packed(work / name, source.name, _in_memory(part, parts, preparation))
            else:
                pack_records(
                    work / name, source.name, part, parts.class_names, preparation, workers
                )
        work.rename(folder)
    except OSError as error:
        raise DataError(
            f"cannot pack {source.name} into {folder}: {error.strerror or error}; make room or "
            "set SFUMATO_CACHE to another folder, then run again: it continues"
        ) from None
    for name in ("train", "test"):
        if is_packed(folder / name):
            for line in read_packed(folder / name).summary.lines():
                log.warning("%s %s: %s", source.name, name, line)


def _resolve(source: Source, parts: Parts, config: DataConfig, workers: int | None) -> Preparation:
    """Settle what is "auto": the most common size, and grey only if every image is."""
    size, channels = config.size, config.channels
    images = parts.train.images
    if isinstance(images, np.ndarray | StoredImages):
        one = images[:1] if isinstance(images, np.ndarray) else images.read(0, 1)
        size = size or (one.shape[2], one.shape[3])
        channels = one.shape[1] if channels == "auto" else channels
    elif size is None or channels == "auto":
        sets = [part.images for part in _both(parts) if part is not None]
        records = JoinedRecords(tuple(r for r in sets if isinstance(r, Records)))
        header = scan_records(records, workers)
        if not header.sizes:
            raise DataError(f"{source.name}: none of its images can be read; check the files")
        # Of equally common sizes the smallest, so that the order of files does not matter.
        size = size or min(header.sizes, key=lambda size: (-header.sizes[size], size))
        channels = (3 if header.num_coloured else 1) if channels == "auto" else channels
    return Preparation(size[0], size[1], channels, config.fit, config.resize)


def _note_duplicates(summary: Summary, hashes: Hashes) -> None:
    repeated = np.flatnonzero(~first_of_each(hashes))
    summary.add("duplicate", (f"image {row}" for row in repeated))


def _refuse_odd(source: Source, train: Packed, test: Packed | None) -> None:
    found = [
        f"{name}: {line}"
        for name, packed in (("train", train), ("test", test))
        if packed is not None
        for line in packed.summary.lines()
    ]
    if found:
        raise DataError(
            f"{source.name} has odd images, and --strict refuses them: {'; '.join(found)}. "
            "Repair or remove them, or leave out --strict"
        )
