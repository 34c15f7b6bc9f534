"""Refusals of image sizes that a network cannot work with, with the arithmetic."""

from sfumato.core.errors import ConfigError
from sfumato.core.images import Shape


def check_halvings(kind: str, image_shape: Shape, halvings: int, unit: str, patch: int = 1) -> None:
    """Refuse an image that cannot be cut into patches and then halved so many times.

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
