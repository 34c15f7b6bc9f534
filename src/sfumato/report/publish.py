"""A report for a repository: the Markdown, the numbers and the pictures it links to."""

import re
import shutil
from pathlib import Path
from urllib.parse import unquote

from sfumato.core.errors import RunError
from sfumato.report.html import write_report

LINK = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
FILES = ("report.md", "results.json", "results.csv")


def publish(directory: Path, target: Path, animations: bool = False) -> Path:
    """Write the report of `directory`, and copy what its Markdown needs to `target`.

    Args:
        directory: of a study or a run.
        target: made if it does not exist; files of the same names are replaced.
        animations: copy animations too, which are the largest files.
    Returns:
        The path of the report in `target`.
    Raises:
        RunError: as `write_report`; or `target` cannot be written.
    """
    write_report(directory)
    text = (directory / "report.md").read_text(encoding="utf-8")
    if not animations:
        text = re.sub(r"\n## Samples during training\n\n\|.*\n\|.*\n\|.*\n", "", text)
    linked = [unquote(link) for link in LINK.findall(text)]
    try:
        for name in (*FILES, *linked):
            if (directory / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(directory / name, target / name)
        (target / "report.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"cannot write {target}: {error.strerror}; choose a writable place"
        ) from None
    return target / "report.md"
