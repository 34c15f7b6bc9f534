"""The untrained model of an experiment."""

import torch

from sfumato.core.generative_model import GenerativeModel
from sfumato.core.noise import derive_seed
from sfumato.data.dataset import Dataset, Form
from sfumato.experiment.experiment import Experiment


def build_model(experiment: Experiment, dataset: Dataset | Form) -> GenerativeModel:
    """The untrained model for a data set; its initialization depends on `training.seed` alone."""
    num_classes = dataset.num_classes if experiment.conditional else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(experiment.training.seed, "initialization"))
        return experiment.model.build(dataset.image_shape, num_classes)
