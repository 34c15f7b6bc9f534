"""How far training is."""

from dataclasses import dataclass


@dataclass
class Position:
    """How far training is."""

    images: int = 0
    step: int = 0
    seconds: float = 0.0
    """Time spent in training steps; pictures, checkpoints and start-up do not count."""
