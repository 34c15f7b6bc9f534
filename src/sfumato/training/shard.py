"""FSDP2: each process keeps a part of every parameter, its gradient and its averages."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sfumato.core import distributed
from sfumato.core.blocks import blocks_of
from sfumato.core.errors import ConfigError
from sfumato.core.generative_model import GenerativeModel


def shard(model: GenerativeModel, device: torch.device) -> None:
    """Spread the parameters of a diffusion model over the processes; nothing happens with one.

    Blocks are gathered one after the other when they are computed (Zhao et al. 2023, FSDP).
    Raises:
        ConfigError: the model has several phases.
    """
    if distributed.world_size() == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if len(model.phases()) > 1:
        raise ConfigError(
            "training.shard is for diffusion models; this one trains its networks in "
            f"{len(model.phases())} phases: leave training.shard out"
        )
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    # Its children: the module itself may be entered otherwise than by its forward.
    for network in model.phases()[0].module.children():
        if any(True for _ in network.parameters()):
            for block in blocks_of(network):
                fully_shard(block, mesh=mesh, reshard_after_forward=True)
            fully_shard(network, mesh=mesh, reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether any parameter is spread over the processes."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors put together, in every process; all of them must call this."""
    return {
        name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        for name, tensor in tensors.items()
    }


def spread_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """`tensor`, which every process has whole, spread as `reference` is."""
    if not hasattr(reference, "full_tensor") or tensor.dim() == 0:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(reference, DTensor)
    to = tensor.to(reference.to_local().device)
    return distribute_tensor(to, reference.device_mesh, reference.placements)
