"""Weights that are confined to a set, such as those of unit norm."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Constrained(Protocol):
    """A layer whose weights are confined to a set."""

    def constrain(self) -> None:
        """Put the weights back into the set."""
        ...


def constraint(network: nn.Module) -> Callable[[], None] | None:
    """What is to be called after each optimizer step of a network; None if nothing is."""
    layers = [layer for layer in network.modules() if isinstance(layer, Constrained)]
    if not layers:
        return None

    def constrain() -> None:
        for layer in layers:
            layer.constrain()

    return constrain
