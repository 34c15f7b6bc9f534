"""Where progress and messages for people go: standard error, so that output can be piped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

console = Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """Print a message as it is (no markup, no wrapping of paths)."""
    console.print(message, markup=False, soft_wrap=True)


@cache
def say_once(message: str) -> None:
    """Print a message, once in a process."""
    say(message)


@contextmanager
def progress_bar(
    description: str, total: int | None, done: int = 0, in_bytes: bool = False
) -> Iterator[Callable[[int], None]]:
    """A bar with an ETA; the function it yields takes the number done so far.

    Args:
        description: what is going on.
        total: the number at the end; None if unknown.
        done: the number done before.
        in_bytes: count in kB or MB, with the speed.
    """
    if in_bytes:
        counts: tuple[ProgressColumn, ...] = (DownloadColumn(), TransferSpeedColumn())
    else:
        counts = (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"))
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(description, total=total, completed=done)
        yield lambda now: bar.update(task, completed=now)
