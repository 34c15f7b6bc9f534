"""metrics.jsonl: the numbers of a run, one row of JSON for each position that is logged."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from sfumato.core.files import fault_point, write_bytes

Row = Mapping[str, float]


class MetricsLog:
    """Appends rows to metrics.jsonl, and removes those of steps that will be done again."""

    def __init__(self, path: Path, rows: int) -> None:
        """Open the log and drop all but its first `rows` rows, and any torn last line."""
        self._path = path
        self._file = path.open("a", encoding="utf-8")
        self.truncate(rows)

    def truncate(self, rows: int) -> None:
        """Keep the first `rows` rows."""
        kept = read_metrics(self._path)[:rows]
        write_bytes(self._path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self.rows = len(kept)
        self._file.close()
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        """Append one row."""
        fault_point("append", self._path)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self.rows += 1
        fault_point("appended", self._path)

    def sync(self) -> None:
        """Force the rows to the disk, before a checkpoint depends on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The complete rows of a metrics.jsonl; [] if there is none. A torn last line is left out."""
    rows: list[dict[str, float]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # a line torn by a crash
                break
    return rows
