"""The 1,797 8x8 digits in scikit-learn's wheel: the set that needs no download."""

from pathlib import Path

import numpy as np

from sfumato.data.source import Part, Parts, Source


def digits() -> Source:
    """Grey 8x8 digits of ten classes; a third is held out, which leaves 1,198 to train on."""
    return Source(name="digits", files=(), root=Path(), read=_read, held_out=1 / 3)


def _read() -> Parts:
    from sklearn.datasets import load_digits  # takes a second, so only when asked for

    images, labels = load_digits(return_X_y=True)
    grey = np.rint(images * (255 / 16)).astype(np.uint8)  # 17 levels, 0 and 16 included
    train = Part(grey.reshape(-1, 1, 8, 8), labels.astype(np.int64))
    return Parts(train, None, tuple("0123456789"))
