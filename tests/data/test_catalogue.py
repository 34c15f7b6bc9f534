"""What the catalogue says of its sets, against the sets."""

from typing import Any

import pytest

from sfumato.data.catalogue import CATALOGUE, form, load
from sfumato.data.data_config import DataConfig


def test_the_form_for_people() -> None:
    assert {name: str(entry.form) for name, entry in CATALOGUE.items() if "lsun" not in name} == {
        "digits": "grey 8x8, 10 classes",
        "mnist": "grey 28x28, 10 classes",
        "fashion-mnist": "grey 28x28, 10 classes",
        "cifar10": "RGB 32x32, 10 classes",
        "cifar100": "RGB 32x32, 100 classes",
        "stanford-cars": "RGB, all sizes, 196 classes",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resolution": 16, "fit": "pad"},
        {"resolution": (8, 12), "channels": 3},
        {"classes": (3, "8")},
    ],
)
def test_the_form_without_the_images_is_that_of_the_images(changes: dict[str, Any]) -> None:
    config = DataConfig(source="digits", **changes)
    train = load(config, workers=1).train
    found = form(config)
    assert found.image_shape == train.image_shape
    assert found.num_classes == train.num_classes
