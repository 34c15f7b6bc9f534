"""Stanford Cars: 16,185 photographs of 196 models (Krause et al. 2013).

The authors' addresses no longer answer, so the files usually have to be put into the cache by
hand or come from a mirror; they are verified by the checksums of the originals.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.core.errors import DataError
from sfumato.data.archive import TarRecords, check_name, tar_members
from sfumato.data.download import RemoteFile, fetch
from sfumato.data.source import Part, Parts, Source

HOST = "https://ai.stanford.edu/~jkrause"
FILES = {
    "train": RemoteFile(
        "cars_train.tgz",
        f"{HOST}/car196/cars_train.tgz",
        "md5:065e5b463ae28d29e77c1b4b166cfe61",
    ),
    "test": RemoteFile(
        "cars_test.tgz",
        f"{HOST}/car196/cars_test.tgz",
        "md5:4ce7ebf6a94d07f1952d94dd34c4d501",
    ),
    "devkit": RemoteFile(
        "car_devkit.tgz",
        f"{HOST}/cars/car_devkit.tgz",
        "md5:c3b158d763b6e2245038c8ad08e45376",
    ),
    "test_labels": RemoteFile(
        "cars_test_annos_withlabels.mat",
        f"{HOST}/car196/cars_test_annos_withlabels.mat",
        "md5:b0a2b23655a3edd16d84508592a98d10",
    ),
}


def stanford_cars() -> Source:
    """8,144 training and 8,041 test photographs of many sizes: give a resolution."""
    return cars_files({key: fetch("stanford-cars", file) for key, file in FILES.items()})


def cars_files(paths: dict[str, Path]) -> Source:
    """The set in the four files of FILES."""

    def read() -> Parts:
        devkit = _contents(paths["devkit"])
        names = _read_mat(paths["devkit"], devkit, "cars_meta.mat")["class_names"].ravel()
        train = _read_mat(paths["devkit"], devkit, "cars_train_annos.mat")
        path = paths["test_labels"]
        test = _read_mat(path, {path.name: path.read_bytes()}, path.name)
        return Parts(
            _part(paths["train"], "cars_train", train),
            _part(paths["test"], "cars_test", test),
            tuple(str(name.item()) for name in names),
        )

    files = tuple(paths.values())
    return Source(name="stanford-cars", files=files, root=files[0].parent, read=read)


def _part(path: Path, folder: str, annotations: Any) -> Part:
    plain, members = tar_members(path)
    rows = annotations["annotations"].ravel()
    chosen = []
    for row in rows:
        name = f"{folder}/{row['fname'].item()}"
        check_name(path, name)
        if name not in members:
            raise DataError(f"{path} has no {name}, which the annotations name; fetch it again")
        chosen.append(members[name])
    labels = np.array([int(row["class"].item()) - 1 for row in rows], dtype=np.int64)
    return Part(TarRecords(plain, tuple(chosen)), labels)


def _contents(path: Path) -> dict[str, bytes]:
    plain, members = tar_members(path)
    records = TarRecords(plain, tuple(members.values()))
    return {Path(records.name(row)).name: records.read(row) for row in range(len(records))}


def _read_mat(path: Path, files: dict[str, bytes], name: str) -> Any:
    from scipy.io import loadmat  # slow to import, and only this set needs it

    try:
        return loadmat(io.BytesIO(files[name]))
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"cannot read {name} of {path}: {error}; fetch it again") from None
