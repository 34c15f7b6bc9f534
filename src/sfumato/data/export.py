"""Writing a set of images in forms that other programs read."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.core.files import atomic_path
from sfumato.data.dataset import Dataset, Splits
from sfumato.data.packed import IMAGES, Packed, describe
from sfumato.data.prepare import MODES, Pixels, Preparation
from sfumato.data.source import ImageArray
from sfumato.data.summary import Summary

BLOCK = 1024
"""Images copied at a time: a set may be larger than memory."""
SPLIT_FOLDERS = {"train": "train", "held-out": "test"}


def to_pil(pixels: Pixels) -> Image.Image:
    """The picture of one image [C, H, W] with 1, 3 or 4 channels."""
    channels = pixels.shape[0]
    array = pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Image.fromarray(array, MODES[channels])


def write_png_folder(splits: Splits, folder: Path) -> None:
    """PNG files in `train` and `test`, in a folder for each class; readable as an image folder."""
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
    """Both splits in packed form; `folder` is then a source that needs no packing."""
    for dataset in (splits.held_out, splits.train):
        inside = folder / SPLIT_FOLDERS[dataset.split]
        inside.mkdir(parents=True, exist_ok=True)
        shape = (len(dataset), *dataset.image_shape)
        with atomic_path(inside / IMAGES) as temporary:
            copy = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            for start, images in _blocks(dataset):
                copy[start : start + len(images)] = images
            copy.flush()
        channels, height, width = dataset.image_shape
        packed = Packed(
            images=np.load(inside / IMAGES, mmap_mode="r"),
            labels=dataset.labels,
            hashes=dataset.hashes,
            class_names=dataset.class_names,
            preparation=Preparation(height, width, channels, "crop", "area"),
            summary=Summary(),
        )
        describe(inside, dataset.name, packed)


def _blocks(dataset: Dataset) -> Iterator[tuple[int, ImageArray]]:
    for start in range(0, len(dataset), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(dataset)))
        yield start, dataset.take(rows).numpy()


def file_name(class_name: str) -> str:
    """The name of the folder of a class.

    A class name may come from a hostile archive: it must not lead out of the folder.
    """
    safe = class_name.replace("/", "-").replace("\\", "-").replace("\0", "")
    return safe if safe.strip(".") else "_"
