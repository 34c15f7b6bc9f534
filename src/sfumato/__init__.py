"""Sfumato: trains, samples, evaluates and fairly compares image generative models.

from sfumato import load_data, load_experiment, train, load_run, sample_images, score
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.core.errors import SfumatoError
    from sfumato.core.images import Batch, from_uint8, to_uint8
    from sfumato.core.noise import Noise
    from sfumato.data.catalogue import load as load_data
    from sfumato.data.data_config import DataConfig
    from sfumato.evaluation.image_sources import ArrayImages
    from sfumato.evaluation.protocol import EvaluationConfig
    from sfumato.evaluation.reference import HeldOut
    from sfumato.evaluation.score import score
    from sfumato.experiment.experiment import Experiment, load_experiment
    from sfumato.experiment.load import load_run
    from sfumato.experiment.training_run import train
    from sfumato.report.html import write_report
    from sfumato.speed.sampling import sample_images
    from sfumato.study.launch import run_study
    from sfumato.study.read import load_study
    from sfumato.study.study import Study

_HOME = {
    "ArrayImages": "evaluation.image_sources",
    "Batch": "core.images",
    "DataConfig": "data.data_config",
    "EvaluationConfig": "evaluation.protocol",
    "HeldOut": "evaluation.reference",
    "Experiment": "experiment.experiment",
    "Noise": "core.noise",
    "SfumatoError": "core.errors",
    "Study": "study.study",
    "from_uint8": "core.images",
    "load_data": "data.catalogue",
    "load_experiment": "experiment.experiment",
    "load_run": "experiment.load",
    "load_study": "study.read",
    "run_study": "study.launch",
    "score": "evaluation.score",
    "sample_images": "speed.sampling",
    "to_uint8": "core.images",
    "train": "experiment.training_run",
    "write_report": "report.html",
}

__all__ = [
    "ArrayImages",
    "Batch",
    "DataConfig",
    "EvaluationConfig",
    "Experiment",
    "HeldOut",
    "Noise",
    "SfumatoError",
    "Study",
    "from_uint8",
    "load_data",
    "load_experiment",
    "load_run",
    "load_study",
    "run_study",
    "sample_images",
    "score",
    "to_uint8",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that the command line starts at once."""
    if name not in _HOME:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    own = {"load_data": "load"}.get(name, name)
    return getattr(import_module(f"sfumato.{_HOME[name]}"), own)
