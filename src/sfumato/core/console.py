"""Where progress and messages for people go: standard error, so that output can be piped."""

from rich.console import Console

console = Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """Print a message as it is (no markup, no wrapping of paths)."""
    console.print(message, markup=False, soft_wrap=True)
