"""Data sets of the Hugging Face hub, or saved to disk in its format. Needs the extra `hub`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.core.errors import DataError
from sfumato.core.files import cache_folder
from sfumato.data.source import RawSplit, RawSplits, Records, Source

if TYPE_CHECKING:
    import datasets

PREFIX = "hf:"
TEST_SPLITS = ("test", "validation", "valid", "val")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class")


@dataclass(frozen=True)
class HubRecords(Records):
    """The images of a column."""

    rows: "datasets.Dataset"
    column: str

    def read(self, index: int) -> bytes:
        image = self.rows[index][self.column]
        if image is None:
            raise ValueError("no image in this row")
        content: bytes | None = image["bytes"]
        return Path(image["path"]).read_bytes() if content is None else content


def is_saved_dataset(folder: Path) -> bool:
    """Whether `folder` was written by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def hub_dataset(name: str) -> Source:
    """`name` is `owner/set` or `owner/set:configuration` on the hub, or a folder on disk.

    HF_ENDPOINT sets a mirror, as for the hub's library. Files go into Sfumato's cache.

    Raises:
        DataError: the extra is missing, the set is unavailable, or it has no image column.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"hf:{name} needs the library datasets; install the extra: pip install 'sfumato[hub]'"
        ) from None
    folder = Path(name).expanduser()
    try:
        if is_saved_dataset(folder):
            loaded = datasets.load_from_disk(str(folder))
        else:
            owner_and_set, _, configuration = name.partition(":")
            loaded = datasets.load_dataset(
                owner_and_set, configuration or None, cache_dir=str(cache_folder() / "hub")
            )
    except Exception as error:  # the library raises many kinds
        raise DataError(
            f"cannot load hf:{name}: {type(error).__name__}: {error}. Without a connection, copy "
            "a set that was saved with save_to_disk here and give its folder"
        ) from None
    splits = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    train = splits.get("train")
    if train is None:
        raise DataError(f"hf:{name} has no split 'train', only {sorted(splits)}")
    test = next((splits[key] for key in TEST_SPLITS if key in splits), None)
    files = tuple(
        Path(f["filename"]) for s in (train, test) if s is not None for f in s.cache_files
    )
    return Source(
        name=folder.name if is_saved_dataset(folder) else name.replace("/", "-").replace(":", "-"),
        files=files,
        root=Path(files[0].anchor) if files else Path(),
        read=lambda: _read(name, train, test),
    )


def _read(name: str, train: "datasets.Dataset", test: "datasets.Dataset | None") -> RawSplits:
    import datasets

    features = train.features
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    if len(images) != 1:
        raise DataError(
            f"hf:{name} should have one column of images, it has {images or 'none'} among "
            f"{sorted(features)}; save a version with one column by save_to_disk"
        )
    label = _label_column(features)
    names = () if label is None else _class_names(train, label)
    numbers = {value: number for number, value in enumerate(names)}
    is_numbered = label is not None and isinstance(features[label], datasets.ClassLabel)

    def part(rows: "datasets.Dataset") -> RawSplit:
        encoded = rows.cast_column(images[0], datasets.Image(decode=False))
        row_names = tuple(f"image {index}" for index in range(len(rows)))
        records = HubRecords(row_names, encoded, images[0])
        if label is None:
            return RawSplit(records, None)
        values = rows[label][:]
        known = values if is_numbered else [numbers[str(value)] for value in values]
        labels = np.asarray(known, dtype=np.int64)
        if (labels < 0).any():
            raise DataError(f"hf:{name} has images without a label (-1); filter them out first")
        return RawSplit(records, labels)

    return RawSplits(part(train), None if test is None else part(test), names)


def _label_column(features: Mapping[str, Any]) -> str | None:
    import datasets

    classes = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    preferred = [key for key in LABEL_COLUMNS if key in classes] or classes
    return next(iter(preferred or [key for key in LABEL_COLUMNS if key in features]), None)


def _class_names(train: "datasets.Dataset", label: str) -> tuple[str, ...]:
    import datasets

    kind = train.features[label]
    if isinstance(kind, datasets.ClassLabel):
        return tuple(kind.names)
    values = train.unique(label)
    are_numbers = all(isinstance(value, int) for value in values)
    return tuple(map(str, sorted(values, key=None if are_numbers else str)))
