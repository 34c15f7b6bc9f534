"""Pictures of a run, ready to be put into a page: as data URIs, with their size."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageSequence

from sfumato.core.pictures import on_white

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
