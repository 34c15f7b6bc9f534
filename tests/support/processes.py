"""Real processes for tests: killed at fault points, or joined in a process group.

They are forked from a server that has imported the package once, so each starts in milliseconds.
The targets live here, where the child can import them.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SERVER = get_context("forkserver")
# What training imports on its way: building an optimizer alone imports all of torch._dynamo.
SERVER.set_forkserver_preload(
    ["sfumato.experiment.training_run", "torch._dynamo", "sklearn.datasets"]
)


def started(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A running process."""
    process = SERVER.Process(target=target, args=arguments)
    process.start()
    return process


def finished(target: Callable[..., None], *arguments: Any) -> int:
    """Run a process to its end; returns its exit code, minus the signal's number if killed."""
    process = started(target, *arguments)
    process.join(600)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def silent(message: str) -> None:
    """Nobody listens."""


def train_in(config: Any, run_dir: Path, resume: bool = False) -> None:
    """Train without a word."""
    import torch

    from sfumato.experiment.training_run import train

    torch.set_num_threads(1)
    train(config, run_dir, resume=resume, log=silent)


def train_until(config: Any, run_dir: Path, number: int, torn: float | None) -> None:
    """Train, resuming what is there, and die by SIGKILL at the fault point of that number.

    torn: of the file about to be synced, renamed or appended to, leave this part of what is new.
    """
    from sfumato.core.files import install_fault_handler

    seen = 0

    def die(name: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        if seen != number:
            return
        if torn is not None and name == "write":
            os.truncate(path, int(torn * path.stat().st_size))
        if torn is not None and name == "append":
            with path.open("a") as file:
                file.write('{"images": 96, "step": 6, "loss'[: int(torn * 31)])
        os.kill(os.getpid(), signal.SIGKILL)

    install_fault_handler(die)
    train_in(config, run_dir, resume=True)


def train_and_stop_one(config: Any, run_dir: Path) -> None:
    """Train in a group of which one process gets SIGTERM in its fourth step; exit code 77."""
    from sfumato.core import distributed
    from sfumato.core.errors import Interrupted
    from sfumato.training.trainer import Trainer

    real = Trainer.step

    def step(self: Trainer, batch: Any) -> None:
        real(self, batch)
        if self.state.step == 4 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    Trainer.step = step  # type: ignore[method-assign]
    try:
        train_in(config, run_dir)
    except Interrupted:
        raise SystemExit(77) from None


def train_and_tell_p(config: Any, run_dir: Path) -> None:
    """Train, and write this process's p of ADA after each step to RUN-p-RANK.json."""
    import json

    from sfumato.augment.discriminator import AdaptiveAugmentation
    from sfumato.core import distributed

    real, seen = AdaptiveAugmentation.adapt, []

    def adapt(self: AdaptiveAugmentation) -> None:
        real(self)
        seen.append(float(self.p))

    AdaptiveAugmentation.adapt = adapt  # type: ignore[method-assign]
    try:
        train_in(config, run_dir)
    finally:
        AdaptiveAugmentation.adapt = real  # type: ignore[method-assign]
    path = run_dir.with_name(f"{run_dir.name}-p-{distributed.rank()}.json")
    path.write_text(json.dumps(seen))


def train_and_hang(config: Any, run_dir: Path, marker: Path) -> None:
    """Train, and in the fourth step stay in a computation that Python's signals do not reach."""
    import hashlib

    from sfumato.training.trainer import Trainer

    real = Trainer.step

    def step(self: Trainer, batch: Any) -> None:
        real(self, batch)
        if self.state.step == 4:
            marker.touch()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)  # minutes

    Trainer.step = step  # type: ignore[method-assign]
    train_in(config, run_dir)


def train_on_a_full_disk(config: Any, run_dir: Path) -> None:
    """Files can grow to 20 kB only; exit code 2 if the message says so with a remedy."""
    import resource

    from sfumato.core.errors import RunError

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        train_in(config, run_dir, resume=True)
    except RunError as error:
        explained = "cannot write" in str(error) and "Free some space" in str(error)
        raise SystemExit(2 if explained else 3) from None


def record_points(config: Any, run_dir: Path, into: Path) -> None:
    """Train, and write the name and file of every fault point, a line each."""
    from sfumato.core.files import install_fault_handler

    lines: list[str] = []
    install_fault_handler(lambda name, path: lines.append(f"{name} {path.name}"))
    train_in(config, run_dir)
    into.write_text("\n".join(lines))


def in_group(size: int, target: Callable[..., None], *arguments: Any) -> list[int]:
    """Run `target` in a process group of `size`, as torchrun would; returns the exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    members = [started(_member, rank, size, port, target, arguments) for rank in range(size)]
    for member in members:
        member.join(600)
    codes = [member.exitcode for member in members]
    for member in members:
        member.kill()
    assert None not in codes, "the processes hang"
    return [code or 0 for code in codes]


def _member(
    rank: int, size: int, port: int, target: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    import torch

    from sfumato.core import distributed
    from sfumato.core.errors import SfumatoError

    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in place.items()}})
    torch.set_num_threads(1)
    distributed.start()
    try:
        target(*arguments)
    except SfumatoError as error:
        print(error, flush=True)
        raise SystemExit(2) from None
    finally:
        with contextlib.suppress(Exception):
            distributed.stop()
