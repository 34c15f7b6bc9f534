"""Optimizers and learning-rate schedules as config."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from sfumato.core.config import component
from sfumato.core.errors import ConfigError
from sfumato.training.muon import Muon
from sfumato.training.shard import is_sharded


def _check_betas(name: str, betas: tuple[float, ...]) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"{name} needs 0 <= betas < 1, got betas={list(betas)}")


@component
class Adam:
    """Adam (Kingma & Ba 2015). DCGAN uses betas [0.5, 0.999]."""

    state_names: ClassVar[tuple[str, ...]] = ("step", "exp_avg", "exp_avg_sq")
    kind: Literal["adam"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _check_betas("adam", self.betas)

    def build(
        self, module: torch.nn.Module, learning_rate: float, fast: bool = True
    ) -> torch.optim.Optimizer:
        """The optimizer; fused where it is to be fast."""
        return torch.optim.Adam(
            module.parameters(),
            lr=learning_rate,
            betas=self.betas,
            eps=self.epsilon,
            fused=fast or None,  # None: PyTorch's own choice, which is never the fused form
        )


@component
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    state_names: ClassVar[tuple[str, ...]] = ("step", "exp_avg", "exp_avg_sq")
    kind: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _check_betas("adamw", self.betas)

    def build(
        self, module: torch.nn.Module, learning_rate: float, fast: bool = True
    ) -> torch.optim.Optimizer:
        """The optimizer; fused where it is to be fast."""
        return torch.optim.AdamW(
            module.parameters(),
            lr=learning_rate,
            betas=self.betas,
            eps=self.epsilon,
            weight_decay=self.weight_decay,
            fused=fast or None,
        )


@component
class SGD:
    """Stochastic gradient descent with momentum."""

    state_names: ClassVar[tuple[str, ...]] = ("momentum_buffer",)
    kind: Literal["sgd"] = "sgd"
    momentum: float = 0.9

    def build(
        self, module: torch.nn.Module, learning_rate: float, fast: bool = True
    ) -> torch.optim.Optimizer:
        """The optimizer. (Its fused form knows no sharded parameters.)"""
        return torch.optim.SGD(module.parameters(), lr=learning_rate, momentum=self.momentum)


@component
class RMSprop:
    """RMSprop, as Wasserstein GANs with clipping use it (Arjovsky et al. 2017)."""

    state_names: ClassVar[tuple[str, ...]] = ("step", "square_avg")
    kind: Literal["rmsprop"] = "rmsprop"
    smoothing: float = 0.99

    def build(
        self, module: torch.nn.Module, learning_rate: float, fast: bool = True
    ) -> torch.optim.Optimizer:
        """The optimizer."""
        return torch.optim.RMSprop(module.parameters(), lr=learning_rate, alpha=self.smoothing)


@component
class MuonConfig:
    """Muon for matrices and convolutions, AdamW for the rest, at one learning rate."""

    state_names: ClassVar[tuple[str, ...]] = ("step", "exp_avg", "exp_avg_sq")
    kind: Literal["muon"] = "muon"
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _check_betas("muon", (*self.betas, self.momentum))

    def build(
        self, module: torch.nn.Module, learning_rate: float, fast: bool = True
    ) -> torch.optim.Optimizer:
        """The optimizer; fast, its AdamW is fused and its iteration in bfloat16.

        Raises:
            ConfigError: the parameters are sharded; a matrix is made orthogonal as a whole.
        """
        if is_sharded(module):
            raise ConfigError(
                "training.optimizer 'muon' does not go with training.shard: it needs whole "
                "matrices; leave training.shard out, or use adamw"
            )
        return Muon(
            module, learning_rate, self.momentum, self.betas, self.epsilon, self.weight_decay, fast
        )


Optimizer = Annotated[Adam | AdamW | SGD | RMSprop | MuonConfig, Field(discriminator="kind")]


@component
class ConstantRate:
    """The learning rate as given, to the end."""

    kind: Literal["constant"] = "constant"

    def factor(self, images: float, end: float) -> float:
        """The factor on the learning rate after `images` of `end`."""
        return 1.0


@component
class CosineRate:
    """Half a cosine from the learning rate to `final` times it (Loshchilov & Hutter 2017)."""

    kind: Literal["cosine"] = "cosine"
    final: float = 0.0

    def factor(self, images: float, end: float) -> float:
        """The factor on the learning rate after `images` of `end`."""
        progress = min(images / end, 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@component
class InverseSquareRootRate:
    """Constant for `flat_images`, then falling as 1 / sqrt(images) (Karras et al. 2024, EDM2)."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    flat_images: int

    def factor(self, images: float, end: float) -> float:
        """The factor on the learning rate after `images`."""
        return 1 / math.sqrt(max(images / self.flat_images, 1.0))


RateSchedule = Annotated[
    ConstantRate | CosineRate | InverseSquareRootRate, Field(discriminator="kind")
]
