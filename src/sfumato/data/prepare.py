"""Bringing one image to the size and the channels of its set."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sfumato.core.pictures import on_white

Resize = Literal["area", "bicubic", "lanczos"]
Fit = Literal["crop", "letterbox", "pad"]
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FILTERS = {
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Pixels = UInt8[np.ndarray, "C H W"]


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
            image = self._scale(image, (inside[0], inside[1]), None)
        canvas = Image.new(image.mode, target)  # black; transparent where there is alpha
        canvas.paste(image, ((target[0] - image.width) // 2, (target[1] - image.height) // 2))
        return canvas

    def _scale(
        self,
        image: Image.Image,
        size: tuple[int, int],
        box: tuple[float, float, float, float] | None,
    ) -> Image.Image:
        """Resize the part `box` of the image to `size` (width, height), antialiased."""
        left, top, right, bottom = box or (0, 0, *image.size)
        enlarges = size[0] > right - left or size[1] > bottom - top
        # Pillow's box filter is the exact mean of the covered pixels, but repeats them when
        # enlarging.
        area = Image.Resampling.BILINEAR if enlarges else Image.Resampling.BOX
        chosen = area if self.resize == "area" else FILTERS[self.resize]
        return image.resize(size, chosen, box=(left, top, right, bottom))


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert between L, RGB and RGBA; what is transparent comes to lie on white."""
    if image.mode == "RGBA" and mode != "RGBA":
        image = on_white(image)
    return image if image.mode == mode else image.convert(mode)


def centred_box(
    size: tuple[int, int], target: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The largest centred (left, top, right, bottom) of `size` with the aspect of `target`.

    Sizes are (width, height) in pixels; the box may end between pixels.
    """
    width, height = size
    scale = min(width / target[0], height / target[1])
    box_width, box_height = scale * target[0], scale * target[1]
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height
