"""Writes a set of images as tables, pictures and files."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.table import Table

from sfumato.augment.discriminator import ADA, AnyDiscriminatorAugmentation, DiffAugment
from sfumato.augment.pipeline import Pipeline
from sfumato.core.errors import DataError
from sfumato.core.files import atomic_path
from sfumato.core.images import from_uint8, to_uint8
from sfumato.core.noise import TrainingNoise
from sfumato.core.pictures import image_grid, to_pil
from sfumato.data.dataset import Dataset, Splits
from sfumato.data.decode import Preparation
from sfumato.data.packed import IMAGES_FILE, PackedSplit, Summary, write_description
from sfumato.data.source import ImageArray, as_items, first_of_each

IMAGES_PER_BLOCK = 1024
"""Number of images to copy at a time: a set may be larger than memory."""
SPLIT_FOLDERS = {"train": "train", "held-out": "test"}
SHEET_COLUMNS = 12
"""Number of images per class on the contact sheet."""
SHEET_ROWS = 40
"""Most classes on the contact sheet."""
SAMPLE = 10_000
"""Number of images in the channel statistics of a larger set."""

COPIES, ORIGINALS = 11, 8
"""Numbers of augmented versions of each image, and of images, on the sheet."""
GROUPS = ("blit", "geometric", "colour", "filtering", "noise", "cutout")


def write_png_folder(splits: Splits, folder: Path) -> None:
    """PNG files in `train` and `test`, one folder per class; readable as an image folder."""
    for dataset in (splits.train, splits.held_out):
        inside = folder / SPLIT_FOLDERS[dataset.split]
        digits = len(str(len(dataset) - 1))
        folders = [inside / file_name(name) for name in dataset.class_names] or [inside]
        for class_folder in folders:
            class_folder.mkdir(parents=True, exist_ok=True)
        for start, images in _blocks(dataset):
            for row, pixels in enumerate(images, start):
                into = folders[0 if dataset.labels is None else dataset.labels[row]]
                to_pil(pixels).save(into / f"{row:0{digits}d}.png")


def write_npz(splits: Splits, path: Path) -> None:
    """`x_train, y_train, x_test, y_test` and `class_names`; images uint8 [N, H, W, C]."""
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for dataset in (splits.train, splits.held_out):
            suffix = SPLIT_FOLDERS[dataset.split]
            channels, height, width = dataset.image_shape
            shape = (len(dataset), height, width) + (channels,) * (channels > 1)
            with archive.open(f"x_{suffix}.npy", "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for _, images in _blocks(dataset):
                    file.write(images.transpose(0, 2, 3, 1).tobytes())
            if dataset.labels is not None:
                _write_array(archive, f"y_{suffix}", dataset.labels)
        if splits.train.class_names:
            _write_array(archive, "class_names", np.array(splits.train.class_names))


def _write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def write_packed_splits(splits: Splits, folder: Path) -> None:
    """Both splits in packed form; afterwards `folder` is a source that needs no packing."""
    for dataset in (splits.held_out, splits.train):
        inside = folder / SPLIT_FOLDERS[dataset.split]
        inside.mkdir(parents=True, exist_ok=True)
        shape = (len(dataset), *dataset.image_shape)
        with atomic_path(inside / IMAGES_FILE) as temporary:
            copy = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            for start, images in _blocks(dataset):
                copy[start : start + len(images)] = images
            copy.flush()
        channels, height, width = dataset.image_shape
        packed = PackedSplit(
            images=np.load(inside / IMAGES_FILE, mmap_mode="r"),
            labels=dataset.labels,
            hashes=dataset.hashes,
            class_names=dataset.class_names,
            preparation=Preparation(height, width, channels, "crop", "area"),
            summary=Summary(),
        )
        write_description(inside, dataset.name, packed)


def _blocks(dataset: Dataset) -> Iterator[tuple[int, ImageArray]]:
    for start in range(0, len(dataset), IMAGES_PER_BLOCK):
        rows = np.arange(start, min(start + IMAGES_PER_BLOCK, len(dataset)))
        yield start, dataset.take(rows).numpy()


def file_name(class_name: str) -> str:
    """The name of the folder of a class.

    A class name may come from a hostile archive: it must not lead out of the folder.
    """
    safe = class_name.replace("/", "-").replace("\\", "-").replace("\0", "")
    return safe if safe.strip(".") else "_"


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
    table = Table("class", "train", "", "held-out", title="images per class")
    names = splits.train.class_names
    counts = [
        np.bincount(labels, minlength=len(names))
        for labels in (splits.train.labels, splits.held_out.labels)
        if labels is not None
    ]
    longest = max(1, int(counts[0].max()))
    for name, train, held_out in zip(names, *counts, strict=True):
        table.add_row(name, f"{train:,}", "█" * round(24 * train / longest), f"{held_out:,}")
    return table


def channel_statistics(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, [C], in 0..255.

    Over the whole set, or over SAMPLE images spread evenly if it has more.
    """
    rows = _spread(len(dataset), SAMPLE)
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
    """Training images on the left, held-out images on the right, one class per row."""
    train, held_out = splits.train, splits.held_out
    _, height, width = train.image_shape
    scale = max(1, round(48 / max(height, width)))
    height, width, gap, margin = height * scale, width * scale, 2, 110 if train.num_classes else 2
    num_rows = min(train.num_classes, SHEET_ROWS) or 8
    half = SHEET_COLUMNS * (width + gap)
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
    """SHEET_COLUMNS indices for a row of the sheet, spread over the images of its class."""
    if dataset.labels is None:
        pool = np.array_split(np.arange(len(dataset)), 8)[row]
    else:
        pool = np.flatnonzero(dataset.labels == row)
    return pool.take(_spread(len(pool), SHEET_COLUMNS))


def _spread(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` of the indices 0 to `count` - 1, spread evenly."""
    return np.linspace(0, count - 1, min(count, wanted)).astype(np.int64)


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def augmentation_of(p: float, changes: Sequence[str] | None) -> AnyDiscriminatorAugmentation:
    """ADA at a fixed probability with these groups of changes, or DiffAugment.

    Raises:
        DataError: an unknown group, or a probability outside (0, 1].
    """
    if changes == ["diff_augment"]:
        return DiffAugment()
    if unknown := sorted(set(changes or ()) - set(GROUPS)):
        raise DataError(
            f"unknown group of changes {unknown[0]!r}; choose among {', '.join(GROUPS)}, or "
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
    rows = _spread(len(dataset), ORIGINALS)
    images = from_uint8(dataset.take(rows))
    many = images.repeat_interleave(COPIES, dim=0)
    changed = augmentation.build()(many, TrainingNoise("show", global_batch=len(many)))
    shown = torch.cat([images[:, None], changed.unflatten(0, (len(rows), COPIES))], dim=1)
    return image_grid(to_uint8(shown.flatten(0, 1)).numpy(), COPIES + 1)
