"""MNIST and Fashion-MNIST by name: from where they lie already, else downloaded."""

from pathlib import Path

from sfumato.data.class_names import DIGITS, FASHION_MNIST
from sfumato.data.download import RemoteFile, fetch
from sfumato.data.idx import NAMES, find_idx, idx_folder
from sfumato.data.source import Source

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist installs the idx files."""

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


def mnist() -> Source:
    """60,000 training and 10,000 test digits, grey 28x28."""
    return _downloaded("mnist", MNIST_HOST, MNIST_MD5, DIGITS)


def fashion_mnist() -> Source:
    """60,000 training and 10,000 test pictures of garments, grey 28x28."""
    if all(find_idx(DEBIAN_FASHION_MNIST, name) for pair in NAMES.values() for name in pair):
        return idx_folder(DEBIAN_FASHION_MNIST, "fashion-mnist", FASHION_MNIST)
    return _downloaded("fashion-mnist", FASHION_HOST, FASHION_MD5, FASHION_MNIST)


def _downloaded(name: str, host: str, md5: dict[str, str], classes: tuple[str, ...]) -> Source:
    paths = [
        fetch(name, RemoteFile(f"{file}.gz", f"{host}/{file}.gz", f"md5:{digest}"))
        for file, digest in md5.items()
    ]
    return idx_folder(paths[0].parent, name, classes)
