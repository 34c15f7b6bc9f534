"""The commands of the documentation: the command line accepts them, and their keys exist."""

import re
import shlex
from pathlib import Path

import pytest

from sfumato import load_experiment
from sfumato.cli import build_parser

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "src" / "sfumato" / "recipes"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = re.compile(r"^ *```(?:sh|toml|console)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The commands in blocks of code and between backquotes, without prompts and comments."""
    found: list[str] = []
    for page in PAGES:
        text = page.read_text()
        blocks = "\n".join(SHELL.findall(text)).replace("\\\n", " ")
        lines = re.findall(r"^(?:\$ )?(sfumato [a-z].*)$", blocks, re.MULTILINE)
        found += lines + re.findall(r"`(sfumato [a-z]+ [^`\n]+)`", text)
    return sorted({command for command in found if not command.endswith(("--help", "--output"))})


@pytest.mark.parametrize("command", commands())
def test_the_command_line_accepts_it(command: str) -> None:
    """Verbs and options exist; overrides of a packaged recipe, or of a run of one, are valid."""
    words = shlex.split(command, comments=True)[1:]
    options, rest = build_parser().parse_known_args(words)
    assert all("=" in word and not word.startswith("-") for word in rest), rest
    assert not any("=" in name for name in getattr(options, "classes", None) or []), options.classes
    overrides = [*getattr(options, "overrides", []), *rest]
    subject = getattr(options, "recipe", None) or getattr(options, "run_dir", None)
    name = Path(str(subject)).name
    if (RECIPES / f"{name}.toml").exists():
        load_experiment(name, overrides)


def test_commands_are_found() -> None:
    """The search above finds what the README begins with, and the rest."""
    assert any("sfumato demo" in command for command in commands())
    assert len(commands()) > 50
