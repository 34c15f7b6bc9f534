"""Other places that the numbers of a run go to: TensorBoard, Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.core.config import to_mapping
from sfumato.core.errors import RunError
from sfumato.experiment.experiment import Experiment
from sfumato.runs.directory import run_id

WITH_FLOOR = {"quality": {"Frechet distance": ["Multiline", ["frechet_distance", "frechet_floor"]]}}
"""A chart of TensorBoard's tab "custom scalars": the distance with the floor in the same axes."""
PLACES = ("images", "step")
"""What says where a row is: no curves of their own."""


class TensorBoard:
    """The rows of metrics.jsonl as TensorBoard reads them; its steps are images seen."""

    def __init__(self, run_dir: Path, images: int) -> None:
        """Continue at position `images`: what was written after it is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        later = images + 1 if images else None
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=later)
        self._writer.add_custom_scalars(WITH_FLOOR)

    def write(self, row: Mapping[str, float]) -> None:
        """Add a row."""
        for key, value in row.items():
            if key not in PLACES:
                self._writer.add_scalar(key, value, int(row["images"]))

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


class WeightsAndBiases:
    """Sends the rows to Weights & Biases; the run's id is that of its directory."""

    def __init__(self, run_dir: Path, experiment: Experiment) -> None:
        """Begin or continue the run.

        Raises:
            RunError: the package is not installed.
        """
        try:
            import wandb
        except ImportError:
            raise RunError(
                "training.wandb = true needs the package wandb; install it with "
                "pip install 'sfumato[wandb]', or leave training.wandb out"
            ) from None
        self._run: Any = wandb.init(
            project="sfumato",
            name=experiment.name,
            dir=str(run_dir),
            id=run_id(run_dir),
            resume="allow",
            config=to_mapping(experiment),
        )

    def write(self, row: Mapping[str, float]) -> None:
        """Send a row."""
        self._run.log(dict(row), step=int(row["images"]))

    def close(self) -> None:
        """Finish sending."""
        self._run.finish()


Board = TensorBoard | WeightsAndBiases


def open_boards(run_dir: Path, experiment: Experiment, images: int) -> list[Board]:
    """The boards that the config asks for, continued at position `images`.

    Raises:
        RunError: a package is not installed.
    """
    boards: list[Board] = []
    if experiment.training.tensorboard:
        try:
            boards.append(TensorBoard(run_dir, images))
        except ImportError:
            raise RunError(
                "training.tensorboard = true needs the package tensorboard; install it with "
                "pip install tensorboard, or set training.tensorboard=false"
            ) from None
    if experiment.training.wandb:
        boards.append(WeightsAndBiases(run_dir, experiment))
    return boards
