"""This process: the device it computes on, its process group, and the signals that stop it.

There is one process unless torchrun or accelerate starts several. Every process holds a part of
a sharded tensor (FSDP2).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sfumato.core.errors import Interrupted, SfumatoError

T = TypeVar("T")


def start() -> None:
    """Join the process group that `torchrun` describes in the environment, if it does."""
    if "RANK" in os.environ and dist.is_available() and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(_local_gpu())
            dist.init_process_group("cpu:gloo,cuda:nccl")
        else:
            dist.init_process_group("gloo")


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 in a single one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files and speaks to the user."""
    return rank() == 0


def local_slice(global_batch: int) -> slice:
    """The part of a global batch that this process works on; the sizes differ by at most one."""
    start, end = (global_batch * r // world_size() for r in (rank(), rank() + 1))
    return slice(start, end)


def barrier() -> None:
    """Wait for every process."""
    if world_size() > 1:
        dist.barrier()


def on_main(action: Callable[[], T]) -> T:
    """Run `action` in the main process alone, and return its result in all of them.

    Raises:
        SfumatoError: in every process, when `action` raised it in the main one.
    """
    if world_size() == 1:
        return action()
    outcome: list[T | SfumatoError | None] = [None]
    if is_main():
        try:
            outcome = [action()]
        except SfumatoError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], SfumatoError):
        raise outcome[0]
    return outcome[0]  # type: ignore[return-value]


def largest(*values: float) -> list[float]:
    """The largest that any process has of each value: what they agree on."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def from_main(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The main process's tensors (of the CPU) in every process; those of others are ignored."""
    if world_size() == 1:
        return dict(tensors)
    kinds = on_main(lambda: {name: (t.shape, t.dtype) for name, t in tensors.items()})
    received = {}
    for name, (shape, dtype) in kinds.items():
        tensor = tensors[name].contiguous() if is_main() else torch.empty(shape, dtype=dtype)
        dist.broadcast(tensor, 0)
        received[name] = tensor
    return received


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum `tensor` over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum gradients over the processes, in one flat all-reduce per dtype and device.

    The losses are already divided by the global batch, so the sum is the gradient of the mean.
    Sharded parameters are left out: their gradients are summed as they are scattered.
    """
    if world_size() == 1:
        return
    reduced = [p for p in parameters if p.requires_grad and not hasattr(p, "full_tensor")]
    # A parameter without a gradient in any process keeps none: with a zero gradient the
    # optimizer's momentum would move it.
    present = torch.tensor([p.grad is not None for p in reduced], dtype=torch.uint8)
    dist.all_reduce(present, dist.ReduceOp.MAX)
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter, somewhere in zip(reduced, present.tolist(), strict=True):
        if somewhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            groups.setdefault((parameter.dtype, parameter.device), []).append(parameter.grad)
    for gradients in groups.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]
        )


def shard(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Spread the parameters of modules over the processes, inner modules first (FSDP2).

    Each module is gathered when it is computed, and spread again afterwards. No effect with a
    single process. Source: Zhao et al. 2023 (PyTorch FSDP).
    """
    if world_size() == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    for module in modules:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether any parameter is spread over the processes."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors, in every process. All processes must call this."""
    return {
        name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        for name, tensor in tensors.items()
    }


def sharded_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """`tensor`, of which every process has the whole, sharded as `reference` is."""
    if not hasattr(reference, "full_tensor") or tensor.dim() == 0:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(reference, DTensor)
    to = tensor.to(reference.to_local().device)
    return distribute_tensor(to, reference.device_mesh, reference.placements)


def default_device() -> torch.device:
    """The device named by SFUMATO_DEVICE, else this process's CUDA GPU, else the CPU."""
    if name := os.environ.get("SFUMATO_DEVICE"):
        return torch.device(name)
    if torch.cuda.is_available():
        return _local_gpu()
    return torch.device("cpu")


def _local_gpu() -> torch.device:
    """The GPU of this process among those of the machine."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def gpu_name() -> str | None:
    """The name of the current CUDA GPU; None without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 1.0
"""In a process group a second signal this soon is the first one, passed on by the launcher: a
scheduler or a terminal may send it to both launcher and processes."""
SHOW_CURSOR = b"\x1b[?25h"
LEAVING = b"sfumato: stopped at once; the last checkpoint is complete, continue with --resume\n"


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a request; a second one ends the process at once.

    Python runs signal handlers between its own instructions, so a process inside a long backward
    pass would not notice the second one. A thread does: the interpreter writes the number of every
    signal into a pipe the moment it arrives.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, signal.Handlers | None] = {}
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # signals stay as they are
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)  # type: ignore[assignment]
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._previous_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._listener = threading.Thread(target=self._listen, args=(self._pipe[0],), daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pipe is None:
            return
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._pipe[1])  # which ends the listener
        self._listener.join()
        os.close(self._pipe[0])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def _listen(self, pipe: int) -> None:
        asked_at: float | None = None
        while arrived := os.read(pipe, 1):
            if arrived[0] not in SIGNALS:
                continue
            now = time.monotonic()
            if asked_at is None:
                asked_at = now
            elif world_size() == 1 or now - asked_at > ECHO_SECONDS:
                _leave(arrived[0])

    def interrupted(self, run_dir: Path) -> Interrupted:
        """The exception to raise; its message explains how to continue."""
        return Interrupted(
            f"stopped; everything is saved in {run_dir}. To go on, repeat the command with --resume"
        )


def _leave(number: int) -> None:
    """End the process now. A file that was being written stays, incomplete, beside the others."""
    if os.isatty(2):
        os.write(2, SHOW_CURSOR + b"\n")
    if is_main():
        os.write(2, LEAVING)
    os._exit(128 + number)
