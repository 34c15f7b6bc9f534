"""Tensors in safetensors files: written atomically, read without executing anything, checked."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.core.errors import RunError
from sfumato.core.files import atomic_path


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors atomically. Views are copied, so that no two share memory.

    Raises:
        RunError: the disk is full, or the file cannot be written for another reason.
    """
    separate = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    with explained(path), atomic_path(path) as temporary:
        temporary.touch()
        permissions = temporary.stat().st_mode  # the user's; safetensors makes files private
        save_file(separate, temporary)
        temporary.chmod(permissions)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns errors of writing `path` into a RunError with a remedy."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"cannot write {path}: {error}; what was there before is untouched. Free some space "
            "or make it writable, then repeat the command (train: with --resume)"
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        RunError: it is missing or not a complete safetensors file.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise RunError(f"there is no file {path}; check the path") from None
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise RunError(f"{path} is not a complete safetensors file ({error})") from None


def check_tensors(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    """Check that names, shapes and dtypes of tensors are the expected ones.

    Raises:
        RunError: names the first difference; the file is of another configuration.
    """
    for name in sorted({*expected, *given}):
        ours, theirs = _form(expected.get(name)), _form(given.get(name))
        if ours != theirs:
            raise RunError(
                f"tensor {name!r} is {theirs} in {source} and {ours} in the model; the file is of "
                "another configuration"
            )


def _form(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} of shape {list(tensor.shape)}"


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load tensors whose names and shapes must be exactly those of `module`.

    Raises:
        RunError: they are of another configuration.
    """
    check_tensors(module.state_dict(), tensors, source)
    module.load_state_dict(dict(tensors))
