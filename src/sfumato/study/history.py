"""What the log of a run says of its training."""

import json
from pathlib import Path
from typing import Any

LATE = 10
"""The end of training is its last tenth."""


def read_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def final_losses(run_dir: Path) -> dict[str, float]:
    """The mean loss of every phase over the last tenth of training."""
    rows = [row for row in read_rows(run_dir) if any(key.startswith("loss/") for key in row)]
    late = rows[-max(1, len(rows) // LATE) :]
    keys = dict.fromkeys(key for row in late for key in row if key.startswith("loss/"))
    means = {}
    for key in keys:
        values = [row[key] for row in late if key in row]
        means[key] = sum(values) / len(values)
    return means
