"""Sizes of networks: their types, and refusals of what does not divide, with the arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sfumato.core.config import PositiveInt
from sfumato.core.errors import ConfigError
from sfumato.core.images import Shape

EvenWidth = Annotated[int, Field(ge=4, multiple_of=2)]
"""Channels of which half hold sines and half cosines."""
Multipliers = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
"""Width of each level of a network."""
TwoMultipliers = Annotated[tuple[PositiveInt, ...], Field(min_length=2)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
"""The probability that an activation is set to 0 in training."""
Resample = Literal["down", "up"]

Maps = Float[Tensor, "B C H W"]
"""Feature maps."""
Latents = Float[Tensor, "B Z"]
"""Inputs z of a generator."""
Embedding = Float[Tensor, "B E"]
"""Of the noise level and the class, a vector per image."""


@dataclass(frozen=True)
class Step:
    """What one block of a U-Net does to the feature maps.

    Args:
        channels, out_channels: before and after it.
        size: height and width of the maps before it.
        attends: self-attention follows.
        skip: channels of the map from the way down that is joined to its input; 0: none.
        resample: it halves or doubles the resolution.
        is_last: it is the last block of its level on the way up.
    """

    channels: int
    out_channels: int
    size: tuple[int, int]
    attends: bool = False
    skip: int = 0
    resample: Resample | None = None
    is_last: bool = False


def unet_steps(
    stem: int,
    widths: Sequence[int],
    blocks: int,
    size: tuple[int, int],
    attention: Sequence[int],
) -> tuple[list[Step], list[Step], list[Step]]:
    """The blocks of a U-Net: on the way down, in the middle, and on the way up, in order.

    Args:
        stem: channels of the maps that enter the first level.
        widths: channels of each level; each after the first is half as high and wide.
        blocks: blocks of a level on the way down; the way up has one more, because the map that
            enters a level is joined, too.
        size: height and width of the first level.
        attention: heights of the maps with attention. The first block in the middle has it always.
    """
    sizes = [(size[0] // 2**level, size[1] // 2**level) for level in range(len(widths))]
    attends = [height in attention for height, _ in sizes]
    down: list[Step] = []
    up: list[Step] = []
    width, skips = stem, [stem]
    for level, out in enumerate(widths):
        if level > 0:
            down.append(Step(width, width, sizes[level - 1], resample="down"))
            skips.append(width)
        for _ in range(blocks):
            down.append(Step(width, out, sizes[level], attends[level]))
            width = out
            skips.append(width)
    middle = [Step(width, width, sizes[-1], attend) for attend in (True, False)]
    for level, out in reversed(list(enumerate(widths))):
        for block in range(blocks + 1):
            is_last = block == blocks
            step = Step(width, out, sizes[level], attends[level], skips.pop(), is_last=is_last)
            up.append(step)
            width = out
        if level > 0:
            up.append(Step(width, width, sizes[level], resample="up"))
    return down, middle, up


def check_heads(kind: str, widths: Sequence[int], name: str, divisor: int) -> None:
    """Refuse widths that cannot be split evenly among attention heads.

    Args:
        kind: of the network; begins the message.
        widths: of all levels.
        name, divisor: the key of the config, and its value.
    Raises:
        ValueError: with the widths.
    """
    if any(width % divisor for width in widths):
        raise ValueError(
            f"{kind} widths {list(widths)} must be divisible by {name}={divisor}; "
            f"change {name}, channels or multipliers"
        )


def check_halvings(kind: str, image_shape: Shape, halvings: int, unit: str, patch: int = 1) -> None:
    """Refuse an image that cannot be cut into patches and then halved `halvings` times.

    Args:
        kind: of the network; begins the message.
        halvings: number of changes from one level to the next.
        unit: what the config calls the levels ("multipliers").
        patch: pixels of a side that become one position first.
    Raises:
        ConfigError: with the divisor and the ways out.
    """
    divisor = patch * 2**halvings
    for name, size in zip(("height", "width"), image_shape[1:], strict=True):
        if size % divisor:
            product = f"2^{halvings}" if patch == 1 else f"{patch} x 2^{halvings}"
            levels = f"{halvings + 1} {unit}" + (f", patch {patch}" if patch > 1 else "")
            raise ConfigError(
                f"{kind}: {name} {size} is not divisible by {product} = {divisor} ({levels}); "
                f"use {_fewer(image_shape, patch, unit)}{pad_to(image_shape, divisor)}"
            )


def check_patch(kind: str, image_shape: Shape, patch: int) -> None:
    """Refuse an image that cannot be cut into patches.

    Raises:
        ConfigError: with the way out.
    """
    for name, size in zip(("height", "width"), image_shape[1:], strict=True):
        if size % patch:
            raise ConfigError(
                f"{kind}: {name} {size} is not divisible by patch {patch}; use another patch or "
                f"{pad_to(image_shape, patch)}"
            )


def count_halvings(kind: str, image_shape: Shape) -> int:
    """How often the image is halved: down to 4..7 pixels, as Radford et al. do, or 2 if small.

    Raises:
        ConfigError: the image cannot be halved.
    """
    smallest = min(image_shape[1:])
    least = 4 if smallest >= 16 else 2
    count = 0
    while all(size % 2 ** (count + 1) == 0 for size in image_shape[1:]):
        if smallest // 2 ** (count + 1) < least:
            break
        count += 1
    if count == 0:
        raise ConfigError(
            f"{kind}: images of {image_shape[1]}x{image_shape[2]} cannot be halved; "
            "use an even size, for example with data.resolution"
        )
    return count


def check_attention(kind: str, height: int, levels: int, attention: tuple[int, ...]) -> None:
    """Refuse attention at a height that no level has; each level is half as high as the last.

    Raises:
        ConfigError: with the heights there are.
    """
    heights = [height // 2**level for level in range(levels)]
    if unknown := [wanted for wanted in attention if wanted not in heights]:
        raise ConfigError(
            f"{kind}: attention at height {unknown[0]}, but the levels have heights {heights}; "
            "choose among these, or [] for none"
        )


def pad_to(image_shape: Shape, divisor: int) -> str:
    """The overrides that pad an image to multiples of `divisor`."""
    height, width = (-(-size // divisor) * divisor for size in image_shape[1:])
    size = str(height) if height == width else f"[{height},{width}]"
    return f"data.fit=pad data.resolution={size}"


def _fewer(image_shape: Shape, patch: int, unit: str) -> str:
    """How many levels the image does allow, if any."""
    if any(size % patch for size in image_shape[1:]):
        return ""
    possible = 1
    while not any(size % (patch * 2**possible) for size in image_shape[1:]):
        possible += 1
    return f"{possible} {unit if possible > 1 else unit.removesuffix('s')} or "
