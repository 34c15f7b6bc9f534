"""The pictures of runs, ready to be put into a page: as data URIs, with their size and words."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageSequence

from sfumato.core.pictures import on_white
from sfumato.report.figures import NUM_COLOURS
from sfumato.runs.results import Results

T = TypeVar("T")

MAX_FRAMES = 24
MAX_SPRITE_HEIGHT = 16_000
"""WebP ends at 16,383 pixels."""


@dataclass(frozen=True)
class Picture:
    """An inlined picture; `path` is relative to the report, for formats that link."""

    uri: str
    width: int
    height: int
    path: str


@dataclass(frozen=True)
class Film:
    """The frames of an animation below one another, so that a page can play, pause and scrub it
    without a script; `images` says after how many training images each was drawn, if known.
    """

    uri: str
    width: int
    height: int
    num_frames: int
    images: list[int]
    path: str


@dataclass(frozen=True)
class Sample:
    """A picture of one run, of two, or of real images (colour None)."""

    name: str
    colour: int | None
    caption: str
    alt: str
    picture: Picture


@dataclass(frozen=True)
class Development:
    """An animation of one run."""

    name: str
    colour: int
    caption: str
    alt: str
    film: Film


def samples_of(results: Results, directory: Path) -> tuple[list[Sample], list[Sample]]:
    """The grids of the first seeds with real images after them, and those of the other seeds."""
    first: list[Sample] = []
    more: list[Sample] = []
    for index, arm in enumerate(results.arms):
        for k, run in enumerate(arm.runs):
            picture = read_picture(directory, f"{run.directory}/grid.png")
            rows = run.grid_rows
            if picture is None:
                picture, rows = _last_sample(directory, run.directory), []
            if picture is None:
                continue
            alt = _with_rows(f"Samples of {arm.name}, seed {run.seed}", rows)
            notes = [f"NFE {arm.nfe}" if arm.nfe else ""]
            notes.append(f"seed {run.seed}" if len(arm.runs) > 1 else "")
            notes.append("one class per row" if rows else "")
            caption = " · ".join(note for note in notes if note)
            sample = Sample(arm.name, index % NUM_COLOURS, caption, alt, picture)
            (first if k == 0 else more).append(sample)
    real = read_picture(directory, results.data.get("grid"))
    if real is not None:
        rows = results.data.get("grid_rows", [])
        caption = "held out from training" + (" · one class per row" if rows else "")
        alt = _with_rows("Real held-out images", rows)
        first.append(Sample("Real images", None, caption, alt, real))
    return first, more


def _with_rows(what: str, rows: Sequence[str]) -> str:
    """A text for a picture, with the classes of its rows if they are classes."""
    return what + (f", one class a row: {', '.join(dict.fromkeys(rows))}." if rows else ".")


def _last_sample(directory: Path, run: str) -> Picture | None:
    files = sorted(p for p in (directory / run).glob("samples/*.png") if p.stem.isdigit())
    return read_picture(directory, files[-1].relative_to(directory).as_posix()) if files else None


def films(results: Results, directory: Path) -> list[Development]:
    found = []
    for index, arm in enumerate(results.arms):
        film = read_film(directory, arm.runs[0].directory) if arm.runs else None
        if film is not None:
            last = f"{film.images[0]:,} to {film.images[-1]:,} images" if film.images else ""
            alt = f"How the samples of {arm.name} develop during training, at fixed noise."
            found.append(Development(arm.name, index % NUM_COLOURS, last, alt, film))
    return found


def copy_samples(results: Results, directory: Path) -> list[Sample]:
    """The pictures of suspected copies beside the training images nearest to them."""
    alt = "Pairs: a sample of {}, and the training image nearest to it."
    caption = "pairs: sample, nearest training image"
    return _each_run(results, directory, "memorization.png", caption, alt)


def walk_samples(results: Results, directory: Path) -> list[Sample]:
    """Interpolations, one picture per arm."""
    alt = "Interpolations of {}: in each row, from one sample to another."
    return _each_run(results, directory, "walks.png", "", alt, num_runs=1)


def _each_run(
    results: Results,
    directory: Path,
    file: str,
    caption: str,
    alt: str,
    num_runs: int | None = None,
) -> list[Sample]:
    """The picture of that name from the first `num_runs` of each arm; {} in `alt` is the arm."""
    return [
        Sample(arm.name, index % NUM_COLOURS, caption, alt.format(arm.name), picture)
        for index, arm in enumerate(results.arms)
        for run in arm.runs[:num_runs]
        if (picture := read_picture(directory, f"{run.directory}/{file}"))
    ]


def compared_samples(results: Results, directory: Path) -> list[Sample]:
    """The pictures of pairs of arms, rows of one and the other in turn."""
    samples = []
    for found in results.compared:
        picture = read_picture(directory, found.picture)
        if picture is not None:
            alt = f"Rows in turn: samples of {found.a}, and those of {found.b} from the same noise."
            caption = f"rows in turn, training seed {found.seed}"
            samples.append(Sample(f"{found.a} / {found.b}", None, caption, alt, picture))
    return samples


def read_picture(directory: Path, path: str | None) -> Picture | None:
    """A picture file below `directory`; None when it is missing or no picture."""
    if not path or not (directory / path).is_file():
        return None
    content = (directory / path).read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            kind = Image.MIME.get(image.format or "", "image/png")
            return Picture(_uri(content, kind), image.width, image.height, path)
    except (OSError, SyntaxError, ValueError):  # Pillow's ways of saying "not a picture"
        return None


def read_film(directory: Path, run: str) -> Film | None:
    """How samples developed: from samples/*.png, else from the frames of training.webp."""
    run_directory = directory / run
    files = sorted(p for p in run_directory.glob("samples/*.png") if p.stem.isdigit())
    files = _spread(files)
    path = run_directory / "training.webp"
    relative = (Path(run) / "training.webp").as_posix() if path.is_file() else ""
    try:
        if len(files) > 1:
            frames = [on_white(Image.open(file)) for file in files]
            return _film(frames, [int(file.stem) for file in files], relative)
        if path.is_file():
            with Image.open(path) as animation:
                frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]
            return _film(_spread(frames), [], relative)
    except (OSError, SyntaxError, ValueError):
        return None
    return None


def _film(frames: Sequence[Image.Image], images: list[int], path: str) -> Film | None:
    width, height = frames[0].size
    if len(frames) < 2 or any(frame.size != (width, height) for frame in frames):
        return None
    shrink = min(1.0, MAX_SPRITE_HEIGHT / (height * len(frames)))
    size = (max(1, int(width * shrink)), max(1, int(height * shrink)))
    sprite = Image.new("RGB", (size[0], size[1] * len(frames)))
    for index, frame in enumerate(frames):
        scaled = frame if frame.size == size else frame.resize(size, Image.Resampling.BOX)
        sprite.paste(scaled, (0, index * size[1]))
    buffer = io.BytesIO()
    sprite.save(buffer, "WEBP", lossless=True, quality=50)
    if buffer.tell() > 1_500_000:  # photographs: loss that nobody sees, a tenth of the size
        buffer = io.BytesIO()
        sprite.save(buffer, "WEBP", quality=85)
    return Film(_uri(buffer.getvalue(), "image/webp"), *size, len(frames), images, path)


def _spread(items: Sequence[T]) -> list[T]:
    """At most MAX_FRAMES of the items, evenly spread, the first and the last included."""
    if len(items) <= MAX_FRAMES:
        return list(items)
    return [items[round(k * (len(items) - 1) / (MAX_FRAMES - 1))] for k in range(MAX_FRAMES)]


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
