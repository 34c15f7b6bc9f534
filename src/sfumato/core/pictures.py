"""Arrays to pictures: grids of images, and animations. numpy and Pillow only."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sfumato.core.files import atomic_path

GUTTER = 24
"""Grey level between the images of a grid: nearly black, so that it is quiet on any page."""

_FORMATS = {".webp": "WEBP", ".gif": "GIF", ".png": "PNG", ".apng": "PNG"}


def rows_each(num_classes: int) -> int:
    """Rows of a picture for each class: 4 in all where there are fewer classes."""
    return max(1, 4 // num_classes)


def to_pil(pixels: UInt8[np.ndarray, "C H W"]) -> Image.Image:
    """The picture of one image with 1, 3 or 4 channels."""
    grey = len(pixels) == 1
    return Image.fromarray(pixels[0] if grey else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def image_grid(
    images: UInt8[np.ndarray, "N C H W"],
    columns: int,
    scale: int | None = None,
    padding: int | None = None,
) -> Image.Image:
    """Lay images out row by row, the last row padded with empty cells.

    Args:
        images: grey (C = 1), RGB (3) or RGBA (4), 0..255.
        columns: images in a row.
        scale: every pixel becomes a square of this side, without smoothing. None: small images
            are enlarged to about 48 pixels, to be judged by eye.
        padding: pixels (after scaling) around and between the images. None: as wide as a square.
    Returns:
        A picture of mode L, RGB or RGBA.
    Raises:
        ValueError: no images, another number of channels, or an argument out of range.
    """
    count, channels, height, width = images.shape
    if count == 0 or channels not in (1, 3, 4):
        raise ValueError(
            f"a grid needs at least one image with 1, 3 or 4 channels, got shape {images.shape}"
        )
    if scale is None:
        scale = max(1, 48 // max(height, width))
    if padding is None:
        padding = max(2, scale)
    if columns < 1 or scale < 1 or padding < 0:
        raise ValueError(
            "a grid needs columns >= 1, scale >= 1 and padding >= 0, "
            f"got columns={columns}, scale={scale}, padding={padding}"
        )
    rows = -(-count // columns)
    large = images.repeat(scale, axis=2).repeat(scale, axis=3).transpose(0, 2, 3, 1)
    down, right = height * scale + padding, width * scale + padding
    canvas = np.full((rows * down + padding, columns * right + padding, channels), GUTTER, np.uint8)
    if channels == 4:
        canvas[..., 3] = 0  # the gutter of a transparent picture is transparent
    for index, image in enumerate(large):
        top, left = padding + index // columns * down, padding + index % columns * right
        canvas[top : top + height * scale, left : left + width * scale] = image
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def on_white(picture: Image.Image) -> Image.Image:
    """The picture in RGB; transparent parts become white."""
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def save_animation(
    frames: Sequence[Image.Image], path: Path, fps: int | float, hold_seconds: int | float = 1.0
) -> None:
    """Write frames as an endless animation, atomically and (except as GIF) without loss.

    Args:
        frames: pictures of one size.
        path: the suffix chooses the format: .webp, .gif, .png or .apng.
        fps: frames per second.
        hold_seconds: how much longer the last frame stands before the animation restarts.
    Raises:
        ValueError: no frames, frames of several sizes, another suffix, or fps <= 0.
    """
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"an animation needs frames of one size, got {sorted(sizes) or 'none'}")
    file_format = _FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise ValueError(
            f"cannot write an animation as {path.suffix!r}; choose one of {', '.join(_FORMATS)}"
        )
    if fps <= 0:
        raise ValueError(f"an animation needs fps > 0, got {fps}")
    duration = 1000 / fps
    durations = [round(duration)] * (len(frames) - 1) + [round(duration + 1000 * hold_seconds)]
    first, rest = frames[0], list(frames[1:])
    with atomic_path(path) as temporary:
        lossless = {"lossless": True} if file_format == "WEBP" else {}
        first.save(
            temporary,
            file_format,
            save_all=True,
            append_images=rest,
            duration=durations,
            loop=0,
            **lossless,
        )
