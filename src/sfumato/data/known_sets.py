"""The named sets: digits, MNIST, Fashion-MNIST, CIFAR, Stanford Cars and LSUN."""

import functools
import importlib.util
import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.core.errors import DataError
from sfumato.core.files import cache_folder
from sfumato.data.arrays import NAMES, find_idx, idx_folder
from sfumato.data.cache import make_folder, readable, require_space
from sfumato.data.download import RemoteFile, fetch, md5_file
from sfumato.data.image_files import check_name, tar_members, tar_records, unpack_stream
from sfumato.data.source import RawSplit, RawSplits, Records, Source, joined

if TYPE_CHECKING:
    import lmdb

DIGITS = tuple("0123456789")
FASHION_MNIST = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

MNIST_HOST = "https://ossci-datasets.s3.amazonaws.com/mnist"
MNIST_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
FASHION_HOST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FASHION_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist installs the idx files."""

CIFAR_HOST = "https://www.cs.toronto.edu/~kriz"
CIFAR10_FILE = md5_file(f"{CIFAR_HOST}/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
CIFAR100_FILE = md5_file(
    f"{CIFAR_HOST}/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"
)
"""The binary archives: the Python archives are pickles."""
CIFAR_PIXELS = 3 * 32 * 32
MAX_MEMBER_BYTES = 2**28

CARS_HOST = "https://ai.stanford.edu/~jkrause"
CARS_FILES = {
    "train": md5_file(f"{CARS_HOST}/car196/cars_train.tgz", "065e5b463ae28d29e77c1b4b166cfe61"),
    "test": md5_file(f"{CARS_HOST}/car196/cars_test.tgz", "4ce7ebf6a94d07f1952d94dd34c4d501"),
    "devkit": md5_file(f"{CARS_HOST}/cars/car_devkit.tgz", "c3b158d763b6e2245038c8ad08e45376"),
    "test_labels": md5_file(
        f"{CARS_HOST}/car196/cars_test_annos_withlabels.mat", "b0a2b23655a3edd16d84508592a98d10"
    ),
}

LSUN_HOST = "http://dl.yf.io/lsun/scenes"
LSUN_CATEGORIES = (
    "bedroom", "bridge", "church_outdoor", "classroom", "conference_room",
    "dining_room", "kitchen", "living_room", "restaurant", "tower",
)  # fmt: skip
DATABASE = "data.mdb"

REFETCH = "delete it to fetch it again"


def digits() -> Source:
    """The 1,797 grey 8x8 digits in scikit-learn's wheel: no download.

    A third is held out; 1,198 remain for training.
    """

    def read() -> RawSplits:
        from sklearn.datasets import load_digits  # takes a second, and only this set needs it

        images, labels = load_digits(return_X_y=True)
        grey = np.rint(images * (255 / 16)).astype(np.uint8)  # 17 levels, 0 and 16 included
        train = RawSplit(grey.reshape(-1, 1, 8, 8), labels.astype(np.int64))
        return RawSplits(train, None, DIGITS)

    return Source(name="digits", files=(), root=Path(), read=read, held_out=1 / 3)


def mnist() -> Source:
    """60,000 training and 10,000 test digits, grey 28x28."""
    return _downloaded_idx("mnist", MNIST_HOST, MNIST_MD5, DIGITS)


def fashion_mnist() -> Source:
    """60,000 training and 10,000 test pictures of garments, grey 28x28."""
    if all(find_idx(DEBIAN_FASHION_MNIST, name) for pair in NAMES.values() for name in pair):
        return idx_folder(DEBIAN_FASHION_MNIST, "fashion-mnist", FASHION_MNIST)
    return _downloaded_idx("fashion-mnist", FASHION_HOST, FASHION_MD5, FASHION_MNIST)


def _downloaded_idx(name: str, host: str, md5: dict[str, str], classes: tuple[str, ...]) -> Source:
    paths = [fetch(name, md5_file(f"{host}/{file}.gz", digest)) for file, digest in md5.items()]
    return idx_folder(paths[0].parent, name, classes)


def cifar10() -> Source:
    """50,000 training and 10,000 test images, RGB 32x32, ten classes."""
    return _cifar("cifar10", CIFAR10_FILE)


def cifar100() -> Source:
    """50,000 training and 10,000 test images, RGB 32x32, a hundred (fine) classes."""
    return _cifar("cifar100", CIFAR100_FILE)


def _cifar(name: str, file: RemoteFile) -> Source:
    """The binary archive of either set; its files show which one it is."""
    path = fetch(name, file)

    def read() -> RawSplits:
        members = _tar_contents(path)
        with readable(path, REFETCH):
            if "train.bin" in members:
                names = members["fine_label_names.txt"].decode().split()
                train, test = (_cifar_split(members[f"{s}.bin"], 2) for s in ("train", "test"))
                return RawSplits(train, test, tuple(names))
            batches = b"".join(members[f"data_batch_{number}.bin"] for number in range(1, 6))
            test = _cifar_split(members["test_batch.bin"], 1)
            return RawSplits(_cifar_split(batches, 1), test, CIFAR10)

    return Source(name=name, files=(path,), root=path.parent, read=read)


def _tar_contents(path: Path) -> dict[str, bytes]:
    """The files of a small archive by their names without folders."""
    found = {}
    with readable(path, REFETCH), tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None and member.size <= MAX_MEMBER_BYTES:
                found[Path(member.name).name] = file.read()
    return found


def _cifar_split(content: bytes, label_bytes: int) -> RawSplit:
    """Records of labels (for CIFAR-100 coarse, fine) and 3,072 pixels, channels first."""
    records = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + CIFAR_PIXELS)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    return RawSplit(np.ascontiguousarray(images), records[:, label_bytes - 1].astype(np.int64))


def stanford_cars() -> Source:
    """8,144 training and 8,041 test photographs of many sizes: set a resolution.

    Source: Krause et al. 2013. The authors' addresses no longer answer: put the files into the
    cache by hand, or use a mirror. The checksums belong to the original files.
    """
    paths = {key: fetch("stanford-cars", file) for key, file in CARS_FILES.items()}

    def read() -> RawSplits:
        devkit = _tar_contents(paths["devkit"])
        names = _read_mat(paths["devkit"], devkit, "cars_meta.mat")["class_names"].ravel()
        train = _read_mat(paths["devkit"], devkit, "cars_train_annos.mat")
        path = paths["test_labels"]
        test = _read_mat(path, {path.name: path.read_bytes()}, path.name)
        return RawSplits(
            _cars_split(paths["train"], "cars_train", train),
            _cars_split(paths["test"], "cars_test", test),
            tuple(str(name.item()) for name in names),
        )

    files = tuple(paths.values())
    return Source(name="stanford-cars", files=files, root=files[0].parent, read=read)


def _cars_split(path: Path, folder: str, annotations: Any) -> RawSplit:
    plain, places = tar_members(path)
    rows = annotations["annotations"].ravel()
    names = [f"{folder}/{row['fname'].item()}" for row in rows]
    for name in names:
        check_name(path, name)
        if name not in places:
            raise DataError(f"{path} has no {name}, which the annotations name; fetch it again")
    labels = np.array([int(row["class"].item()) - 1 for row in rows], dtype=np.int64)
    return RawSplit(tar_records(plain, names, places), labels)


def _read_mat(path: Path, files: dict[str, bytes], name: str) -> Any:
    from scipy.io import loadmat  # slow to import, and only this set needs it

    with readable(f"{name} of {path}"):
        return loadmat(io.BytesIO(files[name]))


@dataclass(frozen=True)
class LmdbRecords(Records):
    """The values of an LMDB database. Names are its keys in Latin-1, which covers every byte."""

    folder: Path

    def read(self, index: int) -> bytes:
        with _open_database(self.folder).begin(buffers=False) as transaction:
            value: bytes | None = transaction.get(self.names[index].encode("latin-1"))
        if value is None:
            raise ValueError("not in the database")
        return value


@functools.lru_cache(maxsize=16)
def _open_database(folder: Path) -> "lmdb.Environment":
    import lmdb

    # No locks, so that a read-only disk works; no readahead, because access is scattered.
    return lmdb.open(str(folder), readonly=True, lock=False, readahead=False, max_readers=1)


def lsun(category: str) -> Source:
    """A scene category of LSUN (Yu et al. 2015); its 300 validation images are the test split.

    One LMDB database of WebP images per category and split. Needs the extra `lmdb`.
    """
    dataset = f"lsun-{category.replace('_', '-')}"
    folder = make_folder(cache_folder() / "unpacked" / dataset)
    for split in ("train", "val"):
        name = f"{category}_{split}_lmdb"
        if not (folder / name / DATABASE).is_file():
            # The authors publish no checksums; unpacking verifies those in the zip file.
            file = RemoteFile(f"{name}.zip", f"{LSUN_HOST}/{name}.zip", None)
            _unpack_database(fetch(dataset, file), folder / name / DATABASE)
    return lsun_folder(folder, dataset)


def is_lsun_folder(folder: Path) -> bool:
    """Whether `folder` is or holds a database of LSUN."""
    return (folder / DATABASE).is_file() or bool(_find_databases(folder, "train"))


def lsun_folder(folder: Path, name: str) -> Source:
    """A database, or a folder of `<category>_train_lmdb` and, for the test split, `_val_lmdb`.

    Several categories are the classes.

    Raises:
        DataError: the extra is missing, or a category lacks its validation images.
    """
    if importlib.util.find_spec("lmdb") is None:
        raise DataError(
            f"{name} is an LMDB database; install the extra: pip install 'sfumato[lmdb]'"
        )
    train, test = _find_databases(folder, "train"), _find_databases(folder, "val")
    if (folder / DATABASE).is_file():
        train, test = {"": folder}, {}
    if test and set(test) != set(train):
        missing = sorted(set(train) ^ set(test))
        raise DataError(f"{folder} has only one split of {missing[0]!r}; add the other")

    def read() -> RawSplits:
        names = tuple(train) if len(train) > 1 else ()
        return RawSplits(_lsun_split(train), _lsun_split(test) if test else None, names)

    files = tuple(database / DATABASE for database in (*train.values(), *test.values()))
    return Source(name=name, files=files, root=folder, read=read)


def _find_databases(folder: Path, split: str) -> dict[str, Path]:
    ending = f"_{split}_lmdb"
    found = sorted(path for path in folder.glob(f"*{ending}") if (path / DATABASE).is_file())
    return {path.name.removesuffix(ending): path for path in found}


def _lsun_split(databases: dict[str, Path]) -> RawSplit:
    parts = [_database_records(folder) for folder in databases.values()]
    labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return RawSplit(joined(parts), labels if len(parts) > 1 else None)


def _database_records(folder: Path) -> LmdbRecords:
    import lmdb

    try:
        with _open_database(folder).begin() as transaction:
            keys = tuple(transaction.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise DataError(f"cannot read {folder / DATABASE}: {error}; fetch it again") from None
    return LmdbRecords(tuple(key.decode("latin-1") for key in keys), folder)


def _unpack_database(archive: Path, target: Path) -> None:
    """Take the database out of its zip file."""
    with readable(archive, REFETCH), zipfile.ZipFile(archive) as zipped:
        members = [i for i in zipped.infolist() if i.filename.endswith(f"/{DATABASE}")]
        if not members:
            raise DataError(f"{archive} has no {DATABASE}; {REFETCH}")
        make_folder(target.parent)
        require_space(target.parent, members[0].file_size)
        with zipped.open(members[0]) as stream:
            unpack_stream(stream, target, members[0].file_size, archive)
