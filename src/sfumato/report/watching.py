"""What was watched while a GAN trained, as curves: a figure for each run and kind of number."""

from collections.abc import Sequence

from sfumato.report.curves import Figure, Group, Rows, merged, value_of
from sfumato.report.figures import NUM_COLOURS, Curve, curve_figure

KINDS = {
    "logits": "Logits of the discriminator",
    "accuracy": "Accuracy of the discriminator",
    "overfitting": "Overfitting of the discriminator (r_v: 0 none, 1 by heart)",
    "ada": "Adaptive augmentation",
    "class_share": "Classes of samples (share)",
    "duplicates": "Samples with a twin (share)",
}
"""The part of a column's name before the slash, and the title of its figure."""


def watch_figures(logs: Sequence[tuple[str, int, Rows]]) -> list[Group]:
    """Columns of one kind share a figure, since they are to be compared with each other."""
    groups = []
    for kind, title in KINDS.items():
        figures = [
            figure
            for number, (name, _, rows) in enumerate(logs)
            if (figure := _figure(kind, f"{title}: {name}", f"{kind}-{number}", rows))[1]
        ]
        if figures:
            groups.append((title, figures))
    return groups


def _figure(kind: str, title: str, file: str, rows: Rows) -> Figure:
    keys = dict.fromkeys(key for row in rows for key in row if key.partition("/")[0] == kind)
    curves = []
    for index, key in enumerate(keys):
        found = [(row.get("images"), value_of(row, key)) for row in rows]
        points = [(x, y) for x, y in found if x is not None and y is not None]
        if points:
            x, y, band = merged(points)
            label = (key.partition("/")[2] or key).replace("_", " ")
            many = band if len(points) > len(x) else None
            curves.append(Curve(label, index % NUM_COLOURS, x, y, many))
    return file, curve_figure(title, "images seen", curves)
