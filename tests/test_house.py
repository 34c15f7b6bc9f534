"""The package stays one that a newcomer can hold in the head: sizes, names, and plain English."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import sfumato

SOURCE = Path(sfumato.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
TEXTS = sorted(path for path in SOURCE.rglob("*") if path.suffix in {".py", ".cpp", ".toml", ".j2"})
ROOMS = sorted({path.parent for path in FILES} - {SOURCE})

FILES_OF_A_ROOM = 20
LINES_OF_A_ROOM = 3_500
LINES_OF = {"evaluation": 2_150}
"""Rooms with a smaller limit than the others."""
FILES_IN_ALL = 180
LINES_IN_ALL = 30_400
"""Of all files together; the limits only ever become smaller."""

ENTRY_POINTS = {"main", "run", "add_parser"}
"""Function names that several rooms have: a process starts in them, or a verb does."""


def room(path: Path) -> str:
    """The folder of a file, such as "diffusion/samplers"; "" for the package's own files."""
    return path.parent.relative_to(SOURCE).as_posix().removeprefix(".")


def num_lines(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def in_several_rooms(places: dict[str, set[str]]) -> dict[str, list[str]]:
    """The names that more than one room has, with the rooms."""
    return {name: sorted(rooms) for name, rooms in places.items() if len(rooms) > 1}


@pytest.mark.parametrize("folder", ROOMS, ids=lambda folder: folder.relative_to(SOURCE).as_posix())
def test_a_room_is_small(folder: Path) -> None:
    own = sorted(folder.glob("*.py"))
    assert len(own) <= FILES_OF_A_ROOM
    assert num_lines(own) <= LINES_OF.get(folder.name, LINES_OF_A_ROOM)


def test_the_house_is_small() -> None:
    assert len(FILES) <= FILES_IN_ALL
    assert num_lines(FILES) <= LINES_IN_ALL


def test_no_two_rooms_have_a_module_of_the_same_name() -> None:
    """Apart from the verbs of the command line, which are named for what they start."""
    places = defaultdict(set)
    for path in FILES:
        if path.stem not in ("__init__", "__main__") and room(path) != "cli":
            places[path.stem].add(room(path))
    assert in_several_rooms(places) == {}


def test_no_public_name_is_defined_in_two_rooms() -> None:
    places = defaultdict(set)
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if is_definition and not node.name.startswith("_") and node.name not in ENTRY_POINTS:
                places[node.name].add(room(path))
    assert in_several_rooms(places) == {}


def occurrences(pattern: str, paths: list[Path]) -> list[str]:
    """Where a pattern occurs, as "file:line"."""
    found = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(pattern, line, re.IGNORECASE):
                found.append(f"{path.relative_to(SOURCE)}:{number}")
    return found


@pytest.mark.parametrize("name", ["ContextVar", "performance_plan"])
def test_nothing_is_handed_on_in_secret(name: str) -> None:
    """What a function depends on is an argument."""
    assert occurrences(rf"\b{name}\b", FILES) == []


def test_no_forward_is_replaced() -> None:
    """A module computes by the method of its class, and by nothing put in its place."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign | ast.Delete):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign | ast.AugAssign):
                targets = [node.target]
            found += [
                f"{path.relative_to(SOURCE)}:{target.lineno}"
                for target in targets
                if isinstance(target, ast.Attribute) and target.attr == "forward"
            ]
    assert found == []


@pytest.mark.parametrize(
    "phrase",
    [
        r"(can|could) ?not be had",
        r"\bcan be had\b",
        r"\bhangs? on\b",
        r"\bis said\b",
        r"\btold\b",
        r"\banew\b",
        r"\balike\b",
        r"\bso many\b",
        r"\bshall\b",
        r"\b(one|each|number|value|loss) an image\b",
        r"\bever nearer\b",
        r"\bat once: sharded\b",
        r"\bnothing happens with one\b",
        r"\bwhy it is out\b",
        r"\bwhat is not known\b",
        r"\bunable to execute\b",
        r"\bwhat each image does\b",
    ],
)
def test_plain_english(phrase: str) -> None:
    """Phrases that a native reader would have to translate."""
    assert occurrences(phrase, TEXTS) == []
