"""The documentation: every link and path in it exists, and its English stays plain."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]
)
GENERATED = ("report.md", "table.md")
"""Written by the package or a benchmark: links and phrases are checked, sentences are not."""

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]+\.(?:py|toml|md|yml|cff)|(?:src|tests|benchmarks)/[\w./-]*")

FOREIGN = (
    "aimed at",
    "alike",
    "anew",
    "cannot be had",
    r"hangs? on",
    "is said",
    r"(?<!\w)one an? (?:image|pixel|step|run|batch|class|seed|row)",
    "shall",
    "so many",
    "told",
    r"(?:was|is|were) asked (?:for|of)",
    "which says so",
)
"""Phrases that a native reader has to translate, and what was only a target of development."""

MEAN_WORDS = 18


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(text: str) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", text)


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    titles = re.findall(r"^#+ +(.*)$", without_code(page.read_text()), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()) for title in titles)
    return {title.strip().replace(" ", "-") for title in kept}


def sentences(text: str) -> list[list[str]]:
    """The words of each sentence of a page's prose: no code, tables, headings or pictures."""
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|\$\$.*?\$\$|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", without_code(text))
    text = re.sub(r"`[^`]*`|\$[^$\n]*\$", "code", text)
    blocks: list[str] = [""]
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith(("|", "#", "---")):
            blocks.append("")
        elif item := re.match(r"(?:[*+-]|\d+\.|>) +(.*)", bare):
            blocks.append(item[1])
        else:
            blocks[-1] += " " + bare
    parts = (part for block in blocks for part in re.split(r"(?<=[.!?])[*_)]* +(?=\S)", block))
    words = (re.findall(r"\w[\w'’.,-]*", part) for part in parts)
    return [sentence for sentence in words if sentence]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_exist(page: Path) -> None:
    """Relative links and pictures; anchors are headings of the page they point at."""
    for target in LINK.findall(without_code(page.read_text())):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), f"{_name(page)} links to {target}, which does not exist"
        if anchor and goal.suffix == ".md":
            assert anchor in anchors(goal), f"{_name(page)} links to {target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_named_files_exist(page: Path) -> None:
    """Files of the project that are named in the text: in full, or from their room on."""
    bases = (ROOT, ROOT / "src" / "sfumato", page.parent)
    for code in CODE.findall(without_code(page.read_text())):
        for name in PATH.findall(code):
            if re.search(r"[A-Z]{3}|(?:^|/)(?:mine|my-)", name) or name.startswith(("runs/", "..")):
                continue
            found = any((base / name).exists() for base in bases)
            assert found, f"{_name(page)} names {name}, which does not exist"


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_pages_that_the_code_names_exist(folder: str) -> None:
    """Comments and docstrings point at pages and folders under docs/ (`NAME` stands for any)."""
    for file in (*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.toml")):
        for name in re.findall(r"\bdocs/(?:results|reference|\w+\.md)[\w/-]*", file.read_text()):
            path = ROOT / re.sub(r"[A-Z]{4,}$", "", name)
            found = path.exists() or any(path.parent.glob(f"{path.name}*"))
            assert found, f"{_name(file)} names {name}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_named_modules_exist(page: Path) -> None:
    """`sfumato.room.module` in the text, and what the Python examples import."""
    text = page.read_text()
    for dotted in re.findall(r"`(sfumato(?:\.\w+)+)`", without_code(text)):
        _resolve(dotted)
    for _, language, body in FENCE.findall(text):
        if language == "python":
            compile(body, _name(page), "exec")
            for module, names in re.findall(r"^from (sfumato[\w.]*) import (.+)$", body, re.M):
                for name in names.strip("()").split(","):
                    _resolve(f"{module}.{name.strip()}")


def _resolve(dotted: str) -> None:
    """Import what the name stands for: a module, or something in one."""
    try:
        import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        assert hasattr(import_module(module), name), f"{dotted} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_foreign_phrases(page: Path) -> None:
    """The phrases of `FOREIGN` have plain words in their place."""
    text = " ".join(without_code(page.read_text()).split())
    for phrase in FOREIGN:
        if match := re.search(rf".{{0,30}}\b{phrase}\b.{{0,30}}", text, re.IGNORECASE):
            pytest.fail(f"{_name(page)}: “{phrase}” in “{match[0]}”")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=_name)
def test_sentences_are_short(page: Path) -> None:
    """A page's sentences have at most `MEAN_WORDS` words on average."""
    words = sentences(page.read_text())
    mean = sum(map(len, words)) / max(len(words), 1)
    longest = " ".join(max(words, key=len, default=[]))
    assert mean <= MEAN_WORDS, f"{_name(page)}: {mean:.1f} words a sentence; longest: {longest}"


def test_the_checks_can_fail() -> None:
    """Known answers: two sentences of three and four words, a heading, a table left out."""
    text = "# Title\n\nOne two `three`. Four *five* six\nseven.\n\n| a | b |\n\n```sh\nx y z\n```\n"
    assert [len(sentence) for sentence in sentences(text)] == [3, 4]
    assert anchors(ROOT / "README.md") >= {"licence"}
    assert re.search(rf"\b{FOREIGN[6]}\b", "a value, one an image, of each")
