"""Imports point down only (the rooms of the package are layers), and help is instant."""

import ast
from pathlib import Path

import pytest

import sfumato

SOURCE = Path(sfumato.__file__).parent

BASE = {"networks", "augment", "core"}
FAMILIES = {"diffusion", "gan"}
TOOLS = {"data", "metrics", "speed", "runs"}
ALLOWED = {
    "core": set(),
    "augment": {"core"},
    "speed": {"core"},
    "networks": {"core", "speed"},
    "diffusion": BASE,
    "gan": BASE,
    "data": {"augment", "core"},
    "metrics": {"networks", "core"},
    "runs": {"core"},
    "training": BASE | FAMILIES | TOOLS,
    "evaluation": BASE | FAMILIES | TOOLS,
    "experiment": BASE | FAMILIES | TOOLS | {"training", "evaluation"},
    "explore": BASE | FAMILIES | TOOLS | {"training", "evaluation", "experiment"},
    "interop": BASE | FAMILIES | TOOLS | {"training", "experiment"},
    "study": BASE | FAMILIES | TOOLS | {"training", "evaluation", "experiment", "explore"},
    "report": {"runs", "core"},
    "recipes": set(),
    "cli": BASE
    | FAMILIES
    | TOOLS
    | {"training", "evaluation", "experiment", "explore", "study", "report", "interop"},
}
"""Which rooms a room may import from: those below it."""
FILES = sorted(SOURCE.rglob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    """The rooms of the package that a file imports from, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            modules = [node.module or ""]
            if node.module == "sfumato":
                modules = [f"sfumato.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {m.split(".")[1] for m in modules if m.startswith("sfumato.")}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    parts = path.relative_to(SOURCE).parts
    if len(parts) == 1:  # the package's own face
        return
    room = parts[0]
    assert imported_rooms(path) <= ALLOWED[room] | {room}


def test_the_layers_have_no_cycle() -> None:
    done: set[str] = set()
    waiting = dict(ALLOWED)
    while waiting:
        free = [room for room, below in waiting.items() if below <= done]
        assert free, f"a cycle among {sorted(waiting)}"
        for room in free:
            done.add(room)
            del waiting[room]


def test_the_command_line_imports_nothing_heavy_before_a_verb_runs() -> None:
    light = {
        "argparse",
        "collections",
        "errno",
        "json",
        "os",
        "pathlib",
        "sys",
        "typing",
        "sfumato",
    }
    for path in sorted((SOURCE / "cli").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
                if names[0].startswith("sfumato."):
                    assert names[0].startswith(("sfumato.cli", "sfumato.core.errors")), path
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            assert {name.split(".")[0] for name in names} <= light, path
