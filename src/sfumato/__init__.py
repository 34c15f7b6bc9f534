"""Sfumato: trains, samples, evaluates and fairly compares image generative models.

from sfumato import load_experiment, train, load_run, sample_images, Evaluator
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.core.errors import SfumatoError
    from sfumato.core.images import Batch, from_uint8, to_uint8
    from sfumato.core.noise import Noise
    from sfumato.data.catalogue import load as load_data
    from sfumato.data.config import DataConfig
    from sfumato.report.html import write_report
    from sfumato.run.evaluate import EvaluationConfig, Evaluator, evaluate
    from sfumato.run.experiment import Experiment, load_experiment
    from sfumato.run.sample import load_run, sample_images
    from sfumato.run.train import train
    from sfumato.study.launch import run_study
    from sfumato.study.read import load_study
    from sfumato.study.study import Study

_HOME = {
    "Batch": "core.images",
    "DataConfig": "data.config",
    "EvaluationConfig": "run.evaluate",
    "Evaluator": "run.evaluate",
    "Experiment": "run.experiment",
    "Noise": "core.noise",
    "SfumatoError": "core.errors",
    "Study": "study.study",
    "evaluate": "run.evaluate",
    "from_uint8": "core.images",
    "load_data": "data.catalogue",
    "load_experiment": "run.experiment",
    "load_run": "run.sample",
    "load_study": "study.read",
    "run_study": "study.launch",
    "sample_images": "run.sample",
    "to_uint8": "core.images",
    "train": "run.train",
    "write_report": "report.html",
}

__all__ = [
    "Batch",
    "DataConfig",
    "EvaluationConfig",
    "Evaluator",
    "Experiment",
    "Noise",
    "SfumatoError",
    "Study",
    "evaluate",
    "from_uint8",
    "load_data",
    "load_experiment",
    "load_run",
    "load_study",
    "run_study",
    "sample_images",
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
