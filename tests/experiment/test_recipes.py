"""Every recipe that comes with the package is valid and builds its model."""

import pytest
import torch

from sfumato.data.dataset import Form
from sfumato.experiment.experiment import load_experiment, recipe_names
from sfumato.study.forecast import build_on_meta, form_of


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_builds_for_its_data(name: str) -> None:
    experiment = load_experiment(name, [])
    model = build_on_meta(experiment, form_of(experiment.data) or Form((3, 64, 64), 0))
    assert [phase.name for phase in model.phases()]


HELD_OUT = {"mnist": 10_000, "fashion-mnist": 10_000, "cifar10": 10_000, "cifar100": 10_000}


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_asks_for_no_more_images_than_are_held_out(name: str) -> None:
    """Else it would be found out after the training."""
    experiment = load_experiment(name, [])
    held_out = HELD_OUT.get(experiment.data.source, 10**9)
    assert (experiment.evaluation.num_images or 0) <= held_out


def test_the_cifar_network_is_that_of_ddpm() -> None:
    """Ho et al. 2020, section 4: 35.7 million parameters, unconditional."""
    experiment = load_experiment("cifar10-ddpm", [])
    with torch.device("meta"):
        model = experiment.model.build((3, 32, 32), 0)
    assert sum(p.numel() for p in model.parameters()) == 35_746_307
