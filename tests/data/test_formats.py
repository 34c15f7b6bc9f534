"""Every kind of source from small real files: pixels, labels, class names, splits."""

import gzip
import hashlib
import io
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.core.errors import DataError
from sfumato.data import known_sets
from sfumato.data.catalogue import CATALOGUE, find, load
from sfumato.data.data_config import DataConfig
from sfumato.data.dataset import Splits
from sfumato.data.download import RemoteFile
from sfumato.data.source import ArrayFile

RNG = np.random.default_rng(0)


def loaded(source: object, **changes: Any) -> Splits:
    return load(DataConfig(source=str(source), **changes), workers=1)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def colours(count: int, size: int = 6) -> np.ndarray:
    return RNG.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def pictures(splits: tuple[str, ...] = (), count: int = 3) -> dict[str, np.ndarray]:
    """Paths in class folders, below split folders if any, and their pixels."""
    paths = [
        f"{split}{name}/{i}.png"
        for split in splits or ("",)
        for name in ("cat", "dog")
        for i in range(count)
    ]
    return dict(zip(paths, colours(len(paths)), strict=True))


def write(folder: Path, files: Mapping[str, np.ndarray]) -> Path:
    for path, pixels in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(png(pixels))
    return folder


def check(splits: Splits, train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> None:
    """Each split holds exactly these images with the classes in their paths."""
    for dataset, files in ((splits.train, train), (splits.held_out, test)):
        assert dataset.labels is not None
        found = {
            image.transpose(1, 2, 0).tobytes(): dataset.class_names[label]
            for image, label in zip(dataset.images, dataset.labels, strict=True)
        }
        assert found == {pixels.tobytes(): Path(p).parent.name for p, pixels in files.items()}


TRAIN = pictures(("train/",))
TEST = pictures(("test/",))


def test_digits_have_seventeen_levels_scaled_exactly() -> None:
    from sklearn.datasets import load_digits

    splits = loaded("digits")
    assert (len(splits.train), len(splits.held_out)) == (1198, 599)
    images = np.concatenate([splits.train.images, splits.held_out.images])
    assert set(np.unique(images)) == {round(level * 255 / 16) for level in range(17)}
    original = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    assert sorted(i.tobytes() for i in images) == sorted(i.tobytes() for i in original)


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_mnist(folder: Path, pack: bool) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for split, count in (("train", 20), ("t10k", 10)):
        arrays[f"{split}-images-idx3-ubyte"] = RNG.integers(0, 256, (count, 5, 4), np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) % 10
    for name, array in arrays.items():
        content = gzip.compress(idx(array)) if pack else idx(array)
        (folder / (name + ".gz" * pack)).write_bytes(content)
    return arrays


@pytest.mark.parametrize("pack", [True, False])
def test_idx_folder(tmp_path: Path, pack: bool) -> None:
    arrays = write_mnist(tmp_path / "set", pack)
    splits = loaded(tmp_path / "set")
    assert np.array_equal(splits.train.images[:, 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(splits.held_out.labels, arrays["t10k-labels-idx1-ubyte"])
    assert splits.train.class_names == tuple("0123456789")


def test_mnist_by_name_from_files_put_into_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "downloads" / "mnist"
    write_mnist(folder, pack=True)
    with pytest.raises(DataError, match="damaged or another version"):
        loaded("mnist")
    sums = {
        n: hashlib.md5((folder / f"{n}.gz").read_bytes()).hexdigest() for n in known_sets.MNIST_MD5
    }
    monkeypatch.setattr(known_sets, "MNIST_MD5", sums)
    assert len(loaded("mnist").held_out) == 10


@pytest.mark.skipif(
    not known_sets.DEBIAN_FASHION_MNIST.is_dir(), reason="Debian package not installed"
)
def test_fashion_mnist_where_debian_puts_it() -> None:
    """The published counts, and the mean and deviation that everybody normalizes by."""
    parts = known_sets.fashion_mnist().read()
    assert parts.test is not None
    assert np.bincount(parts.train.labels).tolist() == [6000] * 10
    assert np.bincount(parts.test.labels).tolist() == [1000] * 10
    assert parts.train.images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert parts.train.images.std() / 255 == pytest.approx(0.3530, abs=1e-4)


@pytest.mark.parametrize("damage", ["truncated", "not-gzip", "not-idx", "counts"])
def test_damaged_idx_is_named(tmp_path: Path, damage: str) -> None:
    write_mnist(tmp_path, pack=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(
        {
            "truncated": gzip.compress(content[:-3]),
            "not-gzip": path.read_bytes()[:50],
            "not-idx": gzip.compress(b"\1" + content[1:]),
            "counts": gzip.compress(idx(np.zeros((3, 5, 4), np.uint8))),
        }[damage]
    )
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        loaded(tmp_path)


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_npz(tmp_path: Path, channels: int) -> None:
    shape = (30, 5, 7, channels) if channels else (30, 5, 7)
    x, y = RNG.integers(0, 256, shape, dtype=np.uint8), np.arange(30) % 3
    np.savez(tmp_path / "a.npz", x=x, y=y)
    splits = loaded(tmp_path / "a.npz", held_out=0.2)
    assert splits.train.image_shape == (channels or 1, 5, 7)
    assert (len(splits.train), len(splits.held_out)) == (24, 6)
    both = np.concatenate([splits.train.images, splits.held_out.images]).transpose(0, 2, 3, 1)
    assert sorted(i.tobytes() for i in both) == sorted(i.tobytes() for i in x)


def test_npz_with_four_arrays_and_names(tmp_path: Path) -> None:
    arrays = {"x_train": RNG.integers(0, 256, (6, 4, 4, 3), np.uint8), "y_train": np.arange(6) % 2}
    arrays |= {"x_test": RNG.integers(0, 256, (2, 4, 4, 3), np.uint8), "y_test": np.arange(2)}
    np.savez_compressed(tmp_path / "a.npz", class_names=np.array(["tea", "milk"]), **arrays)
    splits = loaded(tmp_path / "a.npz", classes=("milk",))
    assert splits.train.class_names == ("milk",)
    assert np.array_equal(splits.train.images.transpose(0, 2, 3, 1), arrays["x_train"][1::2])
    assert splits.held_out.labels is not None
    assert splits.held_out.labels.tolist() == [0]


def test_npz_named_after_a_known_set_has_its_class_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10_x.npz", x=colours(40, 32), y=np.arange(40) % 10)
    frogs = loaded(tmp_path / "cifar10_x.npz", classes=("frog", 3))
    assert frogs.train.class_names == ("frog", "cat")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((3, 4, 4), np.uint8)}, "should hold x"),
        ({"x": np.zeros((3, 4, 4), np.float32)}, "float32"),
        ({"x": np.zeros((3, 5, 5, 2), np.uint8)}, "1, 3 or 4 channels"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.arange(2)}, "3 class numbers"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.arange(3) - 1}, "from 0"),
        ({"x": np.array([{}], dtype=object)}, "x is object of shape"),
    ],
)
def test_bad_npz_is_explained(tmp_path: Path, arrays: Any, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        loaded(tmp_path / "a.npz")


def test_truncated_npz_is_explained(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=colours(20))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot read"):
        loaded(tmp_path / "a.npz")


@pytest.mark.parametrize("form", ["idx", "idx.gz", "npz", "compressed npz"])
def test_arrays_larger_than_memory_stay_in_their_files(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The same set, whether its arrays were read or packed from where they are."""
    x, y = RNG.integers(0, 256, (300, 6, 4, 3), dtype=np.uint8), np.arange(300) % 3
    path = tmp_path / "a.npz"
    if form.startswith("idx"):
        write_mnist(path := tmp_path / "set", pack=form == "idx.gz")
    elif form == "npz":
        np.savez(path, x=x, y=y)
    else:
        np.savez_compressed(path, x=x, y=y)
    read = loaded(path, resolution=8, channels=3)
    monkeypatch.setattr("sfumato.data.source.MAX_BYTES_IN_MEMORY", 100)
    stored = find(str(path)).read().train.images
    assert isinstance(stored, ArrayFile)
    assert len(list(cache.glob("unpacked/*"))) == {"idx.gz": 2, "compressed npz": 1}.get(form, 0)
    monkeypatch.setattr("sfumato.data.packing.CHUNK", 64)
    shutil.rmtree(cache / "packed")
    packed = loaded(path, resolution=8, channels=3)
    assert packed.train.digest == read.train.digest
    assert packed.held_out.digest == read.held_out.digest
    assert np.array_equal(packed.train.take(np.arange(9)), read.train.take(np.arange(9)))


def test_a_large_array_that_ends_early_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path, pack=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-3])
    monkeypatch.setattr("sfumato.data.source.MAX_BYTES_IN_MEMORY", 100)
    with pytest.raises(DataError, match="needs 400 bytes of values, found 397"):
        loaded(tmp_path)


def test_image_folder_with_and_without_splits(tmp_path: Path) -> None:
    check(loaded(write(tmp_path / "a", TRAIN | TEST)), TRAIN, TEST)
    files = pictures()
    splits = loaded(write(tmp_path / "b", files), held_out=1 / 3)
    assert splits.train.class_names == ("cat", "dog")
    assert (len(splits.train), len(splits.held_out)) == (4, 2)


def test_loose_images_are_unlabelled(tmp_path: Path) -> None:
    splits = loaded(write(tmp_path, {f"{i}.png": c for i, c in enumerate(colours(5))}))
    assert (splits.train.labels, splits.train.class_names) == (None, ())


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    write(tmp_path / "a", pictures())
    (tmp_path / "a" / "cat" / "up").symlink_to(tmp_path / "a")
    assert sum(map(len, vars(loaded(tmp_path / "a")).values())) == 6


@pytest.mark.parametrize(
    "suffix",
    [
        "zip",
        "tar.gz",
        *(pytest.param(rarer, marks=pytest.mark.slow) for rarer in ("tar", "tar.bz2", "tar.xz")),
    ],
)
def test_archives(tmp_path: Path, suffix: str) -> None:
    """Laid out like a folder, below a folder of their own as archives often are."""
    folder = write(tmp_path / "pets", TRAIN | TEST)
    form = {"tar.gz": "gztar", "tar.bz2": "bztar", "tar.xz": "xztar"}.get(suffix, suffix)
    shutil.make_archive(str(tmp_path / "out"), form, tmp_path, folder.name)
    shutil.rmtree(folder)
    splits = loaded(tmp_path / f"out.{suffix}")
    assert splits.train.name == "out"
    check(splits, TRAIN, TEST)


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:\\e.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_of_an_archive_are_refused(
    tmp_path: Path, name: str, kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    content = png(colours(1)[0])
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
    else:
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match="leads out"):
        loaded(path)


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(colours(1)[0]))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("cat/1.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        archive.addfile(link)
    with pytest.raises(DataError, match="no images"):
        loaded(tmp_path / "a.tar")


def test_a_tar_that_explodes_is_stopped(tmp_path: Path, cache: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("bomb.png")
        member.size = 60 * 2**20
        with Path("/dev/zero").open("rb") as zeros:
            archive.addfile(member, zeros)
    with pytest.raises(DataError, match="unpacks to far more"):
        loaded(tmp_path / "a.tar.gz")
    assert list((cache / "unpacked").iterdir()) == []


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar", "a.tar.gz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b" + b"nonsense" * 100)
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            loaded(tmp_path / name)


def tar_of(path: Path, files: Mapping[str, bytes]) -> bytes:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path.read_bytes()


def as_published(cache: Path, dataset: str, file: RemoteFile, content: bytes) -> RemoteFile:
    """Put a file where the user would, and make its checksum the published one."""
    place = cache / "downloads" / dataset / file.name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return RemoteFile(file.name, file.url, f"md5:{hashlib.md5(content).hexdigest()}")


def test_cifar10_binary(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record layout by the authors' page: label, 1,024 red, 1,024 green, 1,024 blue."""
    images = RNG.integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(24, dtype=np.uint8) % 10
    records = [bytes([n]) + i.tobytes() for n, i in zip(labels, images, strict=True)]
    names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    files = {
        f"cifar-10-batches-bin/{name}": b"".join(records[4 * k : 4 * k + 4])
        for k, name in enumerate(names)
    }
    content = tar_of(tmp_path / "a", files)
    file = as_published(cache, "cifar10", known_sets.CIFAR10_FILE, content)
    monkeypatch.setattr(known_sets, "CIFAR10_FILE", file)
    splits = loaded("cifar10")
    assert np.array_equal(splits.train.images, images[:20])
    assert np.array_equal(splits.held_out.labels, labels[20:])
    assert splits.train.class_names[3] == "cat"


def test_cifar100_binary_takes_the_fine_label(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = RNG.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    records = [bytes([1, n]) + i.tobytes() for n, i in enumerate(images)]
    files = {
        "cifar-100-binary/train.bin": b"".join(records[:4]),
        "cifar-100-binary/test.bin": b"".join(records[4:]),
        "cifar-100-binary/fine_label_names.txt": "\n".join(f"thing{n}" for n in range(6)).encode(),
    }
    content = tar_of(tmp_path / "a", files)
    file = as_published(cache, "cifar100", known_sets.CIFAR100_FILE, content)
    monkeypatch.setattr(known_sets, "CIFAR100_FILE", file)
    splits = loaded("cifar100")
    assert splits.train.labels is not None
    assert splits.train.labels.tolist() == [0, 1, 2, 3]
    assert np.array_equal(splits.held_out.images, images[4:])
    assert splits.train.class_names[5] == "thing5"


def test_stanford_cars(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    def annotations(count: int) -> bytes:
        rows = np.zeros((1, count), dtype=[("class", object), ("fname", object)])
        for row in range(count):
            rows[0, row] = (np.array([[row % 2 + 1]], np.uint8), f"{row + 1:05}.png")
        buffer = io.BytesIO()
        savemat(buffer, {"annotations": rows})
        return buffer.getvalue()

    meta = io.BytesIO()
    savemat(meta, {"class_names": np.array([["AM General", "Acura RL"]], dtype=object)})
    train, test = colours(4), colours(2)
    devkit = {"cars_meta.mat": meta.getvalue(), "cars_train_annos.mat": annotations(4)}
    contents = {
        "train": tar_of(
            tmp_path / "1", {f"cars_train/{i + 1:05}.png": png(c) for i, c in enumerate(train)}
        ),
        "test": tar_of(
            tmp_path / "2", {f"cars_test/{i + 1:05}.png": png(c) for i, c in enumerate(test)}
        ),
        "devkit": tar_of(tmp_path / "3", {f"devkit/{n}": c for n, c in devkit.items()}),
        "test_labels": annotations(2),
    }
    files = {
        key: as_published(cache, "stanford-cars", file, contents[key])
        for key, file in known_sets.CARS_FILES.items()
    }
    monkeypatch.setattr(known_sets, "CARS_FILES", files)
    splits = loaded("stanford-cars")
    assert np.array_equal(splits.train.images.transpose(0, 2, 3, 1), train)
    assert splits.train.labels is not None
    assert splits.train.labels.tolist() == [0, 1, 0, 1]
    assert np.array_equal(splits.held_out.images.transpose(0, 2, 3, 1), test)
    assert splits.train.class_names == ("AM General", "Acura RL")


def write_lmdb(folder: Path, images: np.ndarray) -> Path:
    lmdb = pytest.importorskip("lmdb")
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**24) as database, database.begin(write=True) as writing:
        for number, pixels in enumerate(images):
            writing.put(f"{number:08}".encode(), png(pixels))
    return folder


def test_lsun_by_name_from_the_authors_zip(tmp_path: Path, cache: Path) -> None:
    for split, images in (("train", train := colours(5)), ("val", test := colours(2))):
        name = f"bedroom_{split}_lmdb"
        write_lmdb(tmp_path / split / name, images)
        target = cache / "downloads" / "lsun-bedroom" / name
        shutil.make_archive(str(target), "zip", tmp_path / split, name)
    splits = loaded("lsun-bedroom")
    assert np.array_equal(splits.train.images.transpose(0, 2, 3, 1), train)
    assert np.array_equal(splits.held_out.images.transpose(0, 2, 3, 1), test)
    assert splits.train.labels is None


def test_several_lsun_categories_are_classes(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "bridge_train_lmdb", colours(4))
    write_lmdb(tmp_path / "tower_train_lmdb", colours(4))
    splits = loaded(tmp_path, held_out=0.25)
    assert splits.train.class_names == ("bridge", "tower")
    assert np.bincount(splits.train.labels).tolist() == [3, 3]


def test_lsun_without_the_extra_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lmdb(tmp_path / "tower_train_lmdb", colours(2))
    monkeypatch.setattr(known_sets.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install 'sfumato\[lmdb\]'"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    "labels",
    [
        "class",
        pytest.param("string", marks=pytest.mark.slow),
        pytest.param("none", marks=pytest.mark.slow),
    ],
)
def test_hub_format_on_disk(tmp_path: Path, labels: str) -> None:
    datasets = pytest.importorskip("datasets")
    train, test = colours(6), colours(3)

    def table(images: np.ndarray) -> Any:
        numbers = [n % 2 for n in range(len(images))]
        columns: dict[str, Any] = {"img": [{"bytes": png(i), "path": None} for i in images]}
        features: dict[str, Any] = {"img": datasets.Image()}
        if labels == "class":
            columns["label"] = numbers
            features["label"] = datasets.ClassLabel(names=["cat", "dog"])
        if labels == "string":
            columns["label"] = [("cat", "dog")[n] for n in numbers]
            features["label"] = datasets.Value("string")
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    saved = tmp_path / "saved"
    datasets.DatasetDict({"train": table(train), "test": table(test)}).save_to_disk(saved)
    for source in (str(saved), f"hf:{saved}"):
        splits = loaded(source)
        assert np.array_equal(splits.train.images.transpose(0, 2, 3, 1), train)
        assert np.array_equal(splits.held_out.images.transpose(0, 2, 3, 1), test)
        if labels == "none":
            assert splits.train.labels is None
        else:
            assert splits.train.class_names == ("cat", "dog")
            assert splits.held_out.labels is not None
            assert splits.held_out.labels.tolist() == [0, 1, 0]


def test_unknown_source_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'fashion-mnist'"):
        loaded("fashion_mnist")
    with pytest.raises(DataError, match="no images"):
        loaded(tmp_path)
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(DataError, match="no known kind"):
        loaded(tmp_path / "a.csv")


def test_every_name_of_the_catalogue_says_where_its_files_go(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, each set fails with the place of its first file; the embedded one does not."""
    monkeypatch.setattr(known_sets, "DEBIAN_FASHION_MNIST", Path("/nowhere"))
    monkeypatch.setenv("SFUMATO_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setattr("sfumato.data.download._addresses", lambda *_: ["http://127.0.0.1:9/x"])
    monkeypatch.setattr("sfumato.data.download.PAUSE", 0)
    for name, entry in CATALOGUE.items():
        if name == "digits":
            entry.find()
            continue
        with pytest.raises(DataError, match=f"Put the file .*{cache}/downloads/{name}"):
            entry.find()
