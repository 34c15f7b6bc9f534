"""The layout of a U-Net, written out by hand for two levels."""

import pytest

from sfumato.core.errors import ConfigError
from sfumato.networks.shapes import Step, check_heads, count_halvings, unet_steps


def test_the_blocks_of_a_unet_of_two_levels() -> None:
    """4 x 6 pixels, attention at height 2. Every map of the way down is joined once."""
    fine, coarse = (4, 6), (2, 3)
    down, middle, up = unet_steps(8, [10, 20], 1, fine, [2])
    assert down == [
        Step(8, 10, fine),
        Step(10, 10, fine, resample="down"),
        Step(10, 20, coarse, attends=True),
    ]
    assert middle == [Step(20, 20, coarse, attends=True), Step(20, 20, coarse)]
    assert up == [
        Step(20, 20, coarse, attends=True, skip=20),
        Step(20, 20, coarse, attends=True, skip=10, is_last=True),
        Step(20, 20, coarse, resample="up"),
        Step(20, 10, fine, skip=10),
        Step(10, 10, fine, skip=8, is_last=True),
    ]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((8, 8), 2), ((28, 28), 2), ((32, 32), 3), ((32, 48), 3), ((64, 64), 4), ((12, 14), 1)],
)
def test_images_are_halved_down_to_a_few_pixels(size: tuple[int, int], expected: int) -> None:
    """Radford et al. 2016 stop at 4 x 4 for 64 pixels; below 16 pixels it is 2."""
    assert count_halvings("dcgan", (1, *size)) == expected


def test_a_refusal_names_the_widths_and_the_key() -> None:
    check_heads("unet", [8, 16], "heads", 4)
    with pytest.raises(ValueError, match=r"unet widths \[8, 12\] must be divisible by heads=8"):
        check_heads("unet", [8, 12], "heads", 8)
    with pytest.raises(ConfigError, match="7x8 cannot be halved"):
        count_halvings("dcgan", (1, 7, 8))
