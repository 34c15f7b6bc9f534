"""Decodes an image file, notes its oddities, and brings it to the form of its set."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import PIL.TiffImagePlugin  # importing a plugin registers it, and Pillow's own quick
import PIL.WebPImagePlugin  # noqa: F401  initialization leaves these two out
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from sfumato.core.pictures import on_white, to_pil

MAX_PIXELS = 2**27
"""134 megapixels decode to 400 MB; a larger image counts as an attack."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""The only formats that Pillow tries: its parsers of rare formats are a risk with hostile files."""
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif",
    ".ppm", ".pgm", ".pbm",
)  # fmt: skip
ORIENTATION = 0x0112
"""The EXIF tag."""
_TWO_BYTES = re.compile(r";16[BLN]")
"""Pillow's names for 16 bits per channel. (`BGR;16` is 16 bits per pixel.)"""


class UnusableImageError(Exception):
    """An image to leave out. `kind` is "unreadable", "bomb" or "tiny"."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass
class Decoded:
    """An image of mode L, RGB or RGBA, upright, and its oddities."""

    image: Image.Image
    notes: set[str] = field(default_factory=set)


@contextmanager
def _pillow() -> Iterator[None]:
    """Call Pillow inside: its warnings are ignored, its errors become UnusableImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # among them that of many pixels: see MAX_PIXELS
            yield
    except UnusableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnusableImageError("bomb", str(error)) from None
    except UnidentifiedImageError:
        raise UnusableImageError("unreadable", "not an image of a known format") from None
    except Exception as error:  # Pillow's parsers raise anything on hostile bytes
        raise UnusableImageError("unreadable", f"{type(error).__name__}: {error}") from None


def open_image(content: bytes) -> Image.Image:
    """Read the header only.

    Raises:
        UnusableImageError: not an image, or too large.
    """
    with _pillow():
        image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise UnusableImageError(
            "bomb", f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}"
        )
    return image


def decode(content: bytes) -> Decoded:
    """Decode the first frame of an image file, turn it upright, and convert it to L, RGB or RGBA.

    Raises:
        UnusableImageError: the file is damaged, truncated or too large.
    """
    image = open_image(content)
    notes = set()
    if getattr(image, "n_frames", 1) > 1 and image.format in ("GIF", "WEBP", "PNG", "TIFF"):
        notes.add("animated")
    if any(_TWO_BYTES.search(str(tile.args)) for tile in getattr(image, "tile", ())):
        notes.add("16-bit")  # also coloured ones: Pillow takes the upper byte
    with _pillow():
        image.load()
        if image.getexif().get(ORIENTATION, 1) in range(2, 9):
            notes.add("rotated")
            image = ImageOps.exif_transpose(image)
        return Decoded(_simplify(image, notes), notes)


def _simplify(image: Image.Image, notes: set[str]) -> Image.Image:
    """Convert any mode of Pillow to L, RGB or RGBA; RGBA only if something is transparent."""
    if image.mode == "F":
        raise UnusableImageError("unreadable", "floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        notes.add("16-bit")  # also 32-bit integers, if they fit
        return _from_16_bit(image)
    if image.mode == "CMYK":
        notes.add("cmyk")
    if image.mode in ("P", "PA"):
        notes.add("palette")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.add("transparent")
            return image
        image = image.convert("RGB")
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Grey in 0..65535 to 0..255; both ends are exact."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnusableImageError("unreadable", "grey values outside 0..65535")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def is_grey(image: Image.Image) -> bool:
    """Whether the image has no colour, by its header."""
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")


Resize = Literal["area", "bicubic", "lanczos"]
Fit = Literal["crop", "letterbox", "pad"]
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FILTERS = {
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Pixels = UInt8[np.ndarray, "C H W"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


@dataclass(frozen=True)
class Preparation:
    """The form that all images of a packed set share. `channels`: 1 grey, 3 RGB, 4 RGBA."""

    height: int
    width: int
    channels: int
    fit: Fit
    resize: Resize

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width

    def __call__(self, image: Image.Image) -> Pixels:
        """The prepared pixels of an image of mode L, RGB or RGBA."""
        image = to_mode(image, MODES[self.channels])
        if image.size != (self.width, self.height):
            image = self._fit(image)
        pixels = np.asarray(image)
        return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))

    def _fit(self, image: Image.Image) -> Image.Image:
        target = (self.width, self.height)
        if self.fit == "crop":
            return self._scale(image, target, centred_box(image.size, target))
        if self.fit == "letterbox":
            ratio = min(t / s for t, s in zip(target, image.size, strict=True))
            inside = tuple(max(1, round(s * ratio)) for s in image.size)
            image = self._scale(image, (inside[0], inside[1]), (0, 0, *image.size))
        canvas = Image.new(image.mode, target)  # black; transparent where there is alpha
        canvas.paste(image, ((target[0] - image.width) // 2, (target[1] - image.height) // 2))
        return canvas

    def _scale(self, image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
        """Resize the part `box` of the image to `size` (width, height), antialiased."""
        left, top, right, bottom = box
        enlarges = size[0] > right - left or size[1] > bottom - top
        # Pillow's box filter is the exact mean of the covered pixels, but repeats them when
        # enlarging.
        area = Image.Resampling.BILINEAR if enlarges else Image.Resampling.BOX
        chosen = area if self.resize == "area" else FILTERS[self.resize]
        return image.resize(size, chosen, box=(left, top, right, bottom))


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert between L, RGB and RGBA; transparent pixels are blended with white."""
    if image.mode == "RGBA" and mode != "RGBA":
        image = on_white(image)
    return image if image.mode == mode else image.convert(mode)


def centred_box(size: tuple[int, int], target: tuple[int, int]) -> Box:
    """The largest centred box of `size` with the aspect of `target`.

    Sizes are (width, height) in pixels; the box may end between pixels.
    """
    width, height = size
    scale = min(width / target[0], height / target[1])
    box_width, box_height = scale * target[0], scale * target[1]
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def prepare_array(
    images: UInt8[np.ndarray, "N c h w"], preparation: Preparation
) -> UInt8[np.ndarray, "N C H W"]:
    """Prepare decoded images; returns `images` itself if nothing changes."""
    if images.shape[1:] == preparation.shape:
        return images
    prepared = np.empty((len(images), *preparation.shape), np.uint8)
    for row, image in enumerate(images):
        prepared[row] = preparation(to_pil(image))
    return prepared
