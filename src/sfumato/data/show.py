"""What `sfumato data show` says about a set: counts, statistics, duplicates, a contact sheet."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.table import Table

from sfumato.augment.discriminator import ADA, AnyDiscriminatorAugmentation, DiffAugment
from sfumato.augment.pipeline import Pipeline
from sfumato.core.errors import DataError
from sfumato.core.images import from_uint8, to_uint8
from sfumato.core.noise import TrainingNoise
from sfumato.core.pictures import image_grid
from sfumato.data.dataset import Dataset, Splits
from sfumato.data.export import to_pil
from sfumato.data.split import as_items, first_of_each

COLUMNS = 12
"""Images of each class on the contact sheet."""
MAX_ROWS = 40
"""Classes on the contact sheet."""
SAMPLE = 10_000
"""Images that the channel statistics are taken over."""

COPIES, ORIGINALS = 11, 8
"""Augmented versions of each image, and images, of the picture of augmentation."""
GROUPS = ("blit", "geometric", "colour", "filtering", "noise", "cutout")


def tables(splits: Splits) -> list[Table]:
    """Tables for the terminal."""
    return [_overview(splits), *([_histogram(splits)] if splits.train.num_classes else [])]


def _overview(splits: Splits) -> Table:
    table = Table("", "train", "held-out", title=splits.train.name)
    both = (splits.train, splits.held_out)
    table.add_row("images", *(f"{len(d):,}" for d in both))
    channels, height, width = splits.train.image_shape
    table.add_row("channels x height x width", *[f"{channels} x {height} x {width}"] * 2)
    means, deviations = zip(*(channel_statistics(d) for d in both), strict=True)
    table.add_row("channel means (0..255)", *(_numbers(m) for m in means))
    table.add_row("standard deviations", *(_numbers(d) for d in deviations))
    table.add_row("equal to an earlier one", *(f"{num_repeated(d):,}" for d in both))
    table.add_row("training images also held out", f"{num_shared(splits):,}", "")
    table.add_row("digest", *(d.digest[:16] for d in both))
    return table


def _histogram(splits: Splits) -> Table:
    table = Table("class", "train", "", "held-out", title="images a class")
    counts = [class_counts(d) for d in (splits.train, splits.held_out)]
    longest = max(1, int(counts[0].max()))
    for number, name in enumerate(splits.train.class_names):
        train, held_out = (int(c[number]) for c in counts)
        table.add_row(name, f"{train:,}", "█" * round(24 * train / longest), f"{held_out:,}")
    return table


def class_counts(dataset: Dataset) -> np.ndarray:
    """Images of each class, [num_classes]."""
    assert dataset.labels is not None
    return np.bincount(dataset.labels, minlength=dataset.num_classes)


def channel_statistics(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, [C], in 0..255.

    Over the whole set, or over SAMPLE images spread evenly when it has more.
    """
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), SAMPLE)).astype(np.int64))
    total, squares, count = np.zeros(dataset.image_shape[0]), np.zeros(dataset.image_shape[0]), 0
    for part in np.array_split(rows, 1 + len(rows) // 256):
        images = dataset.take(part).numpy().astype(np.float64)
        total += images.sum((0, 2, 3))
        squares += (images**2).sum((0, 2, 3))
        count += images[:, 0].size
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def num_repeated(dataset: Dataset) -> int:
    """Images equal to an earlier one of the set."""
    return int((~first_of_each(dataset.hashes)).sum())


def num_shared(splits: Splits) -> int:
    """Training images that are also held out."""
    train, held_out = as_items(splits.train.hashes), as_items(splits.held_out.hashes)
    return int(np.isin(train, held_out).sum())


def contact_sheet(splits: Splits) -> Image.Image:
    """Training images on the left, held-out ones on the right, one class a row."""
    train, held_out = splits.train, splits.held_out
    _, height, width = train.image_shape
    scale = max(1, round(48 / max(height, width)))
    height, width, gap, margin = height * scale, width * scale, 2, 110 if train.num_classes else 2
    num_rows = min(train.num_classes, MAX_ROWS) or 8
    half = COLUMNS * (width + gap)
    sheet = Image.new("RGB", (margin + 2 * half + 16, 20 + num_rows * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for row in range(num_rows):
        top = 20 + row * (height + gap)
        if train.num_classes:
            draw.text((4, top + height // 2 - 6), train.class_names[row][:17], fill="black")
        for left, dataset in ((margin, train), (margin + half + 16, held_out)):
            for column, index in enumerate(_chosen(dataset, row)):
                image = to_pil(dataset.take(np.array([index])).numpy()[0])
                image = image.resize((width, height), Image.Resampling.NEAREST)
                mask = image.getchannel("A") if image.mode == "RGBA" else None
                sheet.paste(image, (left + column * (width + gap), top), mask)
    draw.text((margin, 4), f"{train.name}: train", fill="black")
    draw.text((margin + half + 16, 4), "held-out", fill="black")
    return sheet


def _chosen(dataset: Dataset, row: int) -> np.ndarray:
    """COLUMNS indices for a row of the sheet, spread over the images of its class."""
    if dataset.labels is None:
        pool = np.array_split(np.arange(len(dataset)), 8)[row]
    else:
        pool = np.flatnonzero(dataset.labels == row)
    if len(pool) <= COLUMNS:
        return pool
    return pool[np.linspace(0, len(pool) - 1, COLUMNS).astype(np.int64)]


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def augmentation_of(p: float, changes: Sequence[str] | None) -> AnyDiscriminatorAugmentation:
    """ADA at a fixed probability with these groups of changes, or DiffAugment.

    Raises:
        DataError: an unknown group, or a probability that is none.
    """
    if changes == ["diff_augment"]:
        return DiffAugment()
    if unknown := sorted(set(changes or ()) - set(GROUPS)):
        raise DataError(
            f"there is no group of changes {unknown[0]!r}; choose among {', '.join(GROUPS)}, or "
            "diff_augment alone"
        )
    if not 0 < p <= 1:
        raise DataError(f"--augment is {p}; it should be a probability above 0 and at most 1")
    pipeline = Pipeline()
    if changes is not None:
        pipeline = Pipeline(**{group: group in changes for group in GROUPS})
    return ADA(pipeline=pipeline, probability=p, adaptive=False)


def augmented_sheet(dataset: Dataset, augmentation: AnyDiscriminatorAugmentation) -> Image.Image:
    """Some images in the first column, each with augmented versions beside it."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), ORIGINALS)).astype(int))
    images = from_uint8(dataset.take(rows))
    many = images.repeat_interleave(COPIES, dim=0)
    changed = augmentation.build()(many, TrainingNoise("show", global_batch=len(many)))
    shown = torch.cat([images[:, None], changed.unflatten(0, (len(rows), COPIES))], dim=1)
    return image_grid(to_uint8(shown.flatten(0, 1)).numpy(), COPIES + 1)
