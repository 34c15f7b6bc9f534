"""Packing images in parallel, so that a kill costs the chunks under way and no more.

In the folder of an unfinished split, `images.npy` already has its full length; a file
`chunks/<start>.json` appears once the pixels of that chunk are safely in it.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sfumato.core.console import progress_bar
from sfumato.core.errors import DataError
from sfumato.core.files import sync_directory, write_json
from sfumato.data.cache import require_space
from sfumato.data.chunk import Chunk, Header, PrepareJob, PrepareStoredJob, ScanJob
from sfumato.data.packed import IMAGES, Packed, describe
from sfumato.data.pool import run_ranges
from sfumato.data.prepare import Preparation
from sfumato.data.source import Part, Records, StoredImages
from sfumato.data.split import Hashes, first_of_each
from sfumato.data.summary import Summary

CHUNK = 256
"""Images prepared, written and recorded at a time."""


def scan_records(records: Records, workers: int | None) -> Header:
    """What the headers of all images say."""
    header, done = Header(), 0
    ranges = _ranges(len(records))
    results = run_ranges(ScanJob(records), ranges, lambda _: Header(), _joined_headers, workers)
    with progress_bar("reading headers", len(records)) as show:
        for start, stop, result in results:
            header = _joined_headers(header, result)
            show(done := done + stop - start)
    return header


def pack_records(
    folder: Path,
    name: str,
    part: Part,
    class_names: tuple[str, ...],
    preparation: Preparation,
    workers: int | None,
) -> None:
    """Pack the images of a part into `folder`, continuing what an earlier process began there.

    Raises:
        DataError: not enough room on the disk, or no image can be used.
        OSError: the folder cannot be written.
    """
    records = part.images
    assert isinstance(records, Records | StoredImages)
    shape = (len(records), *preparation.shape)
    (folder / "chunks").mkdir(parents=True, exist_ok=True)
    offset = _open_images(folder / IMAGES, shape)
    chunks = _read_chunks(folder)
    missing = [(start, stop) for start, stop in _ranges(len(records)) if start not in chunks]
    job: PrepareJob | PrepareStoredJob
    if isinstance(records, Records):
        job = PrepareJob(records, preparation, folder / IMAGES, offset)
    else:
        job = PrepareStoredJob(records, preparation, folder / IMAGES, offset)
    results = run_ranges(job, missing, _crashed, _joined_chunks, workers)
    done = len(records) - sum(stop - start for start, stop in missing)
    with progress_bar(f"packing {name}", len(records)) as show:
        show(done)
        for start, stop, chunk in results:
            write_json(folder / "chunks" / f"{start}.json", chunk.to_json())
            chunks[start] = chunk
            show(done := done + stop - start)
    _finish(folder, name, part, class_names, preparation, [chunks[s] for s in sorted(chunks)])


def _finish(
    folder: Path,
    name: str,
    part: Part,
    class_names: tuple[str, ...],
    preparation: Preparation,
    chunks: Sequence[Chunk],
) -> None:
    """Close the gaps of dropped images and describe the result."""
    records = part.images
    assert isinstance(records, Records | StoredImages)
    hashes = _hashes(chunks)
    kept = np.ones(len(records), bool)
    summary = Summary()
    for chunk in chunks:
        for row, (kind, reason) in chunk.dropped.items():
            kept[row] = False
            summary.add(kind, [f"{records.name(row)}: {reason}"])
        for kind, noted in chunk.notes.items():
            summary.add(kind, map(records.name, noted))
    rows = np.flatnonzero(kept)
    if not len(rows):
        reasons = "; ".join(summary.lines())
        raise DataError(f"{name}: none of {len(records)} images can be used: {reasons}")
    repeated = rows[~first_of_each(hashes[rows])]
    summary.add("duplicate", map(records.name, repeated.tolist()))
    if len(rows) < len(kept):
        _keep_rows(folder / IMAGES, rows)
    images = np.load(folder / IMAGES, mmap_mode="r")
    labels = None if part.labels is None else part.labels[rows]
    packed = Packed(images, labels, hashes[rows], class_names, preparation, summary)
    describe(folder, name, packed)
    shutil.rmtree(folder / "chunks")


def _open_images(path: Path, shape: tuple[int, ...]) -> int:
    """Make the file for all images unless it is there; the position of the first pixel.

    Raises:
        DataError: the disk has no room for it.
    """
    if not path.is_file():
        require_space(path.parent, int(np.prod(shape, dtype=object)))
        temporary = path.with_suffix(".new")
        np.lib.format.open_memmap(temporary, "w+", np.uint8, shape).flush()
        temporary.replace(path)
        sync_directory(path.parent)
    return int(np.load(path, mmap_mode="r").offset)


def _keep_rows(path: Path, rows: np.ndarray) -> None:
    """Rewrite the image file with `rows` only."""
    images = np.load(path, mmap_mode="r")
    if len(images) == len(rows):  # done before an earlier process was killed
        return
    temporary = path.with_suffix(".new")
    kept = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(rows), *images.shape[1:]))
    for start in range(0, len(rows), CHUNK):
        kept[start : start + CHUNK] = images[rows[start : start + CHUNK]]
    kept.flush()
    temporary.replace(path)
    sync_directory(path.parent)


def _read_chunks(folder: Path) -> dict[int, Chunk]:
    chunks = {}
    for path in (folder / "chunks").glob("[0-9]*.json"):
        chunks[int(path.stem)] = Chunk.from_json(json.loads(path.read_text()))
    return chunks


def _hashes(chunks: Sequence[Chunk]) -> Hashes:
    text = "".join(digest for chunk in chunks for digest in chunk.hashes)
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, 32)


def _ranges(count: int) -> list[tuple[int, int]]:
    return [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _crashed(row: int) -> Chunk:
    return Chunk(dropped={row: ("crashed", "the decoder crashed")}, hashes=["0" * 64])


def _joined_headers(a: Header, b: Header) -> Header:
    return Header(a.sizes + b.sizes, a.num_coloured + b.num_coloured)


def _joined_chunks(a: Chunk, b: Chunk) -> Chunk:
    kinds = {*a.notes, *b.notes}
    notes = {kind: a.notes.get(kind, []) + b.notes.get(kind, []) for kind in sorted(kinds)}
    return Chunk(a.dropped | b.dropped, notes, a.hashes + b.hashes)
