"""What the catalogue says of its sets, against the sets."""

from typing import Any

import pytest

from sfumato.data.catalogue import CATALOGUE, form, load
from sfumato.data.data_config import DataConfig


def test_the_form_agrees_with_the_description() -> None:
    found = {}
    for name, entry in CATALOGUE.items():
        if entry.all_alike is not None:
            channels, height, width = entry.all_alike.image_shape
            colour = {1: "grey", 3: "RGB"}[channels]
            found[name] = f"{colour} {height}x{width}, {entry.all_alike.num_classes} classes"
    assert set(found) == {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100"}
    assert found == {name: CATALOGUE[name].form for name in found}


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
