"""results.csv: one row for every run, every number unrounded."""

import csv
import io

from sfumato.runs.results import Results


def to_csv(results: Results) -> str:
    """Scores with bounds, costs, and the floor of every metric."""
    header = ["arm", "seed", "parameters", "nfe", "images_seen", "train_seconds", "sample_seconds"]
    for metric in results.metrics:
        header += [metric.key, f"{metric.key}_low", f"{metric.key}_high", f"{metric.key}_floor"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for arm in results.arms:
        for run in arm.runs:
            row = [arm.name, run.seed, arm.parameters, arm.nfe]
            row += [run.images_seen, run.train_seconds, run.sample_seconds]
            for metric in results.metrics:
                score, floor = run.scores.get(metric.key), metric.floor
                row += [score.value, score.low, score.high] if score else [None] * 3
                row.append(floor.value if floor else None)
            writer.writerow(row)
    return text.getvalue()
