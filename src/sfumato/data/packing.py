"""Packs a source: in memory, or in the cache."""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from sfumato.core.console import progress_bar
from sfumato.core.errors import DataError
from sfumato.core.files import cache_folder, sync_directory, write_json
from sfumato.data.cache import content_digest, make_folder, require_space
from sfumato.data.data_config import DataConfig
from sfumato.data.decode import Preparation, prepare_array
from sfumato.data.packed import (
    IMAGES_FILE,
    PACKED_FORMAT,
    PackedSplit,
    PackedSplits,
    Summary,
    is_packed,
    read_packed,
    write_description,
    write_packed,
)
from sfumato.data.packing_processes import (
    ChunkJob,
    ChunkReport,
    HeaderJob,
    HeaderReport,
    run_ranges,
)
from sfumato.data.source import (
    ArrayFile,
    LabelArray,
    RawSplit,
    RawSplits,
    Records,
    Source,
    first_of_each,
    image_hashes,
    joined,
)

log = logging.getLogger("sfumato.data")

CHUNK = 256
"""Number of images to prepare, write and record at a time."""


def is_packed_source(folder: Path) -> bool:
    """Whether `folder` was written by `sfumato data pack --output`."""
    return is_packed(folder / "train")


def packed_folder(folder: Path) -> Source:
    """A packed set as a source that is read in place."""

    def refuse() -> RawSplits:
        raise AssertionError("a packed set is not packed again")

    return Source(folder.resolve().name, files=(), root=folder, read=refuse, is_packed=True)


def pack(
    source: Source, config: DataConfig, strict: bool = False, workers: int | None = None
) -> PackedSplits:
    """The packed form of `source`; packs into the cache if necessary.

    Raises:
        DataError: the source is unreadable, the cache is not writable, or an image is odd and
            `strict` is set.
    """
    if source.is_packed:
        return _open(source.root, source, config, strict)
    if not source.files:
        raw = source.read()
        preparation = _resolve(source, raw, config, workers)
        packed = {
            name: _in_memory(split, raw.class_names, preparation)
            for name, split in raw.present().items()
        }
        return PackedSplits(packed["train"], packed.get("test"), None)
    folder = cache_folder() / "packed" / f"{source.name}-{_key(source, config)}"
    if not is_packed(folder / "train"):
        make_folder(folder.parent)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not is_packed(folder / "train"):  # no other process packed it meanwhile
                _pack_into(folder, source, config, workers)
    return _open(folder, source, config, strict)


def _open(folder: Path, source: Source, config: DataConfig, strict: bool) -> PackedSplits:
    train = read_packed(folder / "train")
    test = read_packed(folder / "test") if is_packed(folder / "test") else None
    has = train.preparation
    size_fits = config.size in (None, (has.height, has.width))
    if not size_fits or config.channels not in ("auto", has.channels):
        raise DataError(
            f"{source.name} is packed as {has.channels} x {has.height} x {has.width}, but "
            f"resolution is {config.resolution} and channels {config.channels}; pack it again "
            "from its source, or leave them on auto"
        )
    packed = PackedSplits(train, test, folder)
    if strict and (found := packed.oddities()):
        raise DataError(
            f"{source.name} has odd images, and --strict refuses them: {'; '.join(found)}. "
            "Repair or remove them, or leave out --strict"
        )
    return packed


def _key(source: Source, config: DataConfig) -> str:
    """A name for (content, preparation), independent of the folder of the source."""
    content = content_digest(source.files, source.root)
    asked = [PACKED_FORMAT, content, config.size, config.channels, config.fit, config.resize]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _in_memory(
    split: RawSplit, class_names: tuple[str, ...], preparation: Preparation
) -> PackedSplit:
    assert isinstance(split.images, np.ndarray)
    prepared = prepare_array(split.images, preparation)
    hashes = image_hashes(prepared)
    summary = Summary()
    repeated = np.flatnonzero(~first_of_each(hashes))
    summary.add("duplicate", (f"image {row}" for row in repeated))
    return PackedSplit(prepared, split.labels, hashes, class_names, preparation, summary)


def _pack_into(folder: Path, source: Source, config: DataConfig, workers: int | None) -> None:
    """Pack into a folder beside `folder` and rename it; a later call can continue."""
    raw = source.read()
    work = folder.with_name(f"{folder.name}.partial")
    try:
        preparation = _resolve(source, raw, config, workers)
        for name, split in raw.present().items():
            if is_packed(work / name):
                continue
            if isinstance(split.images, np.ndarray):
                packed = _in_memory(split, raw.class_names, preparation)
                write_packed(work / name, source.name, packed)
            else:
                packer = _SplitPacker(work / name, source.name, split.images, preparation)
                packer.pack(split.labels, raw.class_names, workers)
        work.rename(folder)
    except OSError as error:
        raise DataError(
            f"cannot pack {source.name} into {folder}: {error.strerror or error}; make room or "
            "set SFUMATO_CACHE to another folder, then run again: it continues"
        ) from None
    for name in raw.present():
        for line in read_packed(folder / name).summary.lines():
            log.warning("%s %s: %s", source.name, name, line)


def _resolve(
    source: Source, raw: RawSplits, config: DataConfig, workers: int | None
) -> Preparation:
    """Resolve "auto": the most common size, and grey only if every image is grey."""
    size, channels = config.size, config.channels
    images = raw.train.images
    if isinstance(images, np.ndarray | ArrayFile):
        one = images[:1] if isinstance(images, np.ndarray) else images.read(0, 1)
        size = size or (one.shape[2], one.shape[3])
        channels = one.shape[1] if channels == "auto" else channels
    elif size is None or channels == "auto":
        encoded = [s.images for s in raw.present().values() if isinstance(s.images, Records)]
        header = scan_headers(joined(encoded), workers)
        if not header.sizes:
            raise DataError(f"{source.name}: none of its images can be read; check the files")
        size = size or header.common_size()
        channels = (3 if header.num_coloured else 1) if channels == "auto" else channels
    return Preparation(size[0], size[1], channels, config.fit, config.resize)


def scan_headers(records: Records, workers: int | None) -> HeaderReport:
    """Read the headers of all images."""
    header, done = HeaderReport(), 0
    results = run_ranges(HeaderJob(records), _ranges(len(records)), HeaderReport, workers)
    with progress_bar("reading headers", len(records)) as update:
        for start, stop, report in results:
            header += report
            update(done := done + stop - start)
    return header


@dataclass(frozen=True)
class _SplitPacker:
    """Packs the images of a split into `folder`; continues the work of an earlier process.

    A kill costs the current chunks only: `images.npy` has its full length from the start, and
    `chunks/<start>.json` appears once the pixels of that chunk are safely on disk.
    """

    folder: Path
    name: str
    images: Records | ArrayFile
    preparation: Preparation

    def pack(
        self, labels: LabelArray | None, class_names: tuple[str, ...], workers: int | None
    ) -> None:
        """Prepare the missing chunks, remove the rows of dropped images and describe the set.

        Raises:
            DataError: no room on the disk, or no usable image.
            OSError: the folder is not writable.
        """
        reports = self._chunks(workers)
        rows, summary = self._kept(reports)
        digests = bytes.fromhex("".join(digest for r in reports for digest in r.hashes))
        hashes = np.frombuffer(digests, np.uint8).reshape(-1, 32)[rows]
        repeated = rows[~first_of_each(hashes)]
        summary.add("duplicate", map(self.images.name, repeated.tolist()))
        path = self.folder / IMAGES_FILE
        if len(rows) < len(np.load(path, mmap_mode="r")):  # else done by an earlier process
            _keep_rows(path, rows)
        stored = np.load(path, mmap_mode="r")
        labels = None if labels is None else labels[rows]
        packed = PackedSplit(stored, labels, hashes, class_names, self.preparation, summary)
        write_description(self.folder, self.name, packed)
        shutil.rmtree(self.folder / "chunks")

    def _chunks(self, workers: int | None) -> list[ChunkReport]:
        """The reports on all chunks, in order."""
        images, recorded = self.images, self.folder / "chunks"
        recorded.mkdir(parents=True, exist_ok=True)
        path = self.folder / IMAGES_FILE
        job = ChunkJob(images, self.preparation, path, self._make_file(path))
        chunks = {
            int(path.stem): ChunkReport(**json.loads(path.read_text()))
            for path in recorded.glob("[0-9]*.json")
        }
        missing = [(start, stop) for start, stop in _ranges(len(images)) if start not in chunks]
        done = len(images) - sum(stop - start for start, stop in missing)
        with progress_bar(f"packing {self.name}", len(images), done) as update:
            for start, stop, chunk in run_ranges(job, missing, ChunkReport, workers):
                write_json(recorded / f"{start}.json", asdict(chunk))
                chunks[start] = chunk
                update(done := done + stop - start)
        return [chunks[start] for start in sorted(chunks)]

    def _make_file(self, path: Path) -> int:
        """Make the file for all images if necessary; return the position of the first pixel.

        Raises:
            DataError: the disk has no room for it.
        """
        if not path.is_file():
            shape = (len(self.images), *self.preparation.shape)
            require_space(path.parent, math.prod(shape))
            with _new_images(path, shape):
                pass
        return int(np.load(path, mmap_mode="r").offset)

    def _kept(self, reports: Sequence[ChunkReport]) -> tuple[np.ndarray, Summary]:
        """The rows of the images to keep, and the oddities of all images."""
        kept, summary = np.ones(len(self.images), bool), Summary()
        for report in reports:
            for row, (kind, reason) in report.dropped.items():
                kept[int(row)] = False
                summary.add(kind, [f"{self.images.name(int(row))}: {reason}"])
            for kind, noted in report.notes.items():
                summary.add(kind, map(self.images.name, noted))
        if not kept.any():
            reasons = "; ".join(summary.lines())
            raise DataError(f"{self.name}: none of {len(kept)} images can be used: {reasons}")
        return np.flatnonzero(kept), summary


@contextmanager
def _new_images(path: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Images to fill in; they replace the file at the end."""
    temporary = path.with_suffix(".new")
    images = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
    yield images
    images.flush()
    temporary.replace(path)
    sync_directory(path.parent)


def _keep_rows(path: Path, rows: np.ndarray) -> None:
    """Rewrite the image file with these rows only."""
    images = np.load(path, mmap_mode="r")
    with _new_images(path, (len(rows), *images.shape[1:])) as kept:
        for start in range(0, len(rows), CHUNK):
            kept[start : start + CHUNK] = images[rows[start : start + CHUNK]]


def _ranges(count: int) -> list[tuple[int, int]]:
    return [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
