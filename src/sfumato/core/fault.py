"""Named places where a process may die, so that tests can prove that nothing is lost there.

Outside tests a fault point does nothing. A test installs a handler in the process it starts, which
ends that process at the place it wants.
"""

from collections.abc import Callable
from pathlib import Path

Handler = Callable[[str, Path], None]

_handler: Handler | None = None


def fault_point(name: str, path: Path) -> None:
    """Tell the handler, if there is one, what is about to happen to which file."""
    if _handler is not None:
        _handler(name, path)


def install(handler: Handler | None) -> None:
    """Have `handler` called with the name and file of every fault point; None: nothing again."""
    global _handler
    _handler = handler
