"""Exponential moving averages of weights: what samples are drawn with."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sfumato.core.config import component
from sfumato.core.tensors import check_tensors
from sfumato.training.shard import spread_like


@component
class ExponentialAverage:
    """An average that forgets half of the past in `half_life_images`.

    Early in a run the half-life is at most `rampup` times the images seen, so that the average is
    not ruled by the untrained weights (Karras et al. 2022, EDM).
    """

    kind: Literal["exponential"] = "exponential"
    half_life_images: float = 500_000
    rampup: float = 0.05

    def __post_init__(self) -> None:
        if self.half_life_images <= 0 or self.rampup <= 0:
            raise ValueError(
                "exponential needs half_life_images > 0 and rampup > 0, got "
                f"half_life_images={self.half_life_images}, rampup={self.rampup}"
            )

    def weight(self, images: int, batch: int) -> float:
        """The weight of the newest parameters, when `batch` images end at position `images`."""
        return float(1 - 0.5 ** (batch / self.half_life(images)))

    def half_life(self, images: int) -> float:
        """Images within which half of the past is forgotten, at position `images`."""
        return min(self.half_life_images, self.rampup * images)


@component
class PowerAverage:
    """The power-function average of EDM2 (Karras et al. 2024, section 3.1).

    The weight of a parameter at position s in a run of length t is proportional to s^gamma; the
    profile's relative width is `relative_std`. Snapshots of two widths allow any other width to
    be reconstructed after the run (`reconstruct`).
    """

    kind: Literal["power"] = "power"
    relative_std: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.relative_std < 12**-0.5:
            raise ValueError(
                "power needs 0 < relative_std < 0.2887 (= 12^-1/2, the uniform average), "
                f"got relative_std={self.relative_std}"
            )

    @property
    def gamma(self) -> float:
        """The exponent: the real root above 0 of relative_std^2 (g+2)^2 (g+3) = g+1."""
        return gamma_of_relative_std(self.relative_std)

    def weight(self, images: int, batch: int) -> float:
        """The weight of the newest parameters, when `batch` images end at position `images`."""
        return float(1 - (1 - min(batch / images, 1.0)) ** (self.gamma + 1))


AverageProfile = Annotated[ExponentialAverage | PowerAverage, Field(discriminator="kind")]


def gamma_of_relative_std(relative_std: float) -> float:
    """The exponent gamma of a power-function profile (Karras et al. 2024, algorithm 2)."""
    low, high = 0.0, 1e6
    for _ in range(200):  # the relative width falls as gamma grows
        middle = (low + high) / 2
        width = ((middle + 1) / ((middle + 2) ** 2 * (middle + 3))) ** 0.5
        low, high = (middle, high) if width > relative_std else (low, middle)
    return (low + high) / 2


class AveragedWeights:
    """The running average of a module's parameters and floating-point buffers."""

    def __init__(self, module: nn.Module, profile: ExponentialAverage | PowerAverage) -> None:
        self.profile = profile
        self._live = dict(module.state_dict(keep_vars=True))
        self.tensors = {name: t.detach().clone() for name, t in self._live.items()}
        floating = [n for n, t in self._live.items() if t.is_floating_point()]
        # parameters may be spread over processes, buffers never are: one operation for each sort
        spread = [name for name in floating if hasattr(self._live[name], "full_tensor")]
        whole = [name for name in floating if name not in set(spread)]
        self._averaged = [
            ([self.tensors[name] for name in sort], [self._live[name] for name in sort])
            for sort in (spread, whole)
            if sort
        ]
        self._counters = [name for name in self._live if name not in set(floating)]

    @torch.no_grad()
    def update(self, images: int, batch: int) -> None:
        """Take in the parameters after `batch` more images, at position `images`."""
        weight = self.profile.weight(images, batch)
        for averages, sources in self._averaged:
            torch._foreach_lerp_(averages, [source.detach() for source in sources], weight)
        for name in self._counters:
            self.tensors[name].copy_(self._live[name])

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], source: str) -> None:
        """Continue from saved averages.

        Raises:
            RunError: the names or shapes are not those of the module.
        """
        check_tensors(self.tensors, tensors, source)
        for name, tensor in self.tensors.items():
            tensor.copy_(spread_like(tensors[name], tensor))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside the context the module holds the averages; afterwards its own weights again."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, average in self.tensors.items():
            live = self._live[name]
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)


def weights_in_use(averages: list[AveragedWeights]) -> AbstractContextManager[None]:
    """The context in which a model samples: with the first average, or its own weights if none."""
    return averages[0].in_use() if averages else nullcontext()
