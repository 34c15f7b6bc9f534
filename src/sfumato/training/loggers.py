"""The log of a run: metrics.jsonl, TensorBoard, Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.core import distributed
from sfumato.core.errors import RunError
from sfumato.runs.directory import MetricsLog, run_id
from sfumato.training.training_config import TrainingConfig
from sfumato.training.training_state import TrainingState

WITH_FLOOR = {"quality": {"Frechet distance": ["Multiline", ["frechet_distance", "frechet_floor"]]}}
"""A chart of TensorBoard's tab "custom scalars": the distance with the floor in the same axes."""
PLACES = ("images", "step")
"""Keys that locate a row: they have no curves of their own."""


class TensorBoard:
    """The rows of metrics.jsonl as TensorBoard reads them; its steps are images seen."""

    def __init__(self, run_dir: Path, images: int) -> None:
        """Continue at `images` images seen: what was written after it is hidden."""
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

    def __init__(self, run_dir: Path, record: Mapping[str, Any]) -> None:
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
            name=record["name"],
            dir=str(run_dir),
            id=run_id(run_dir),
            resume="allow",
            config=dict(record),
        )

    def write(self, row: Mapping[str, float]) -> None:
        """Send a row."""
        self._run.log(dict(row), step=int(row["images"]))

    def close(self) -> None:
        """Finish sending."""
        self._run.finish()


Logger = TensorBoard | WeightsAndBiases | MetricsLog


def open_loggers(
    run_dir: Path, config: TrainingConfig, record: Mapping[str, Any], images: int
) -> list[Logger]:
    """The loggers that the config asks for beside metrics.jsonl, continued at `images` images.

    Args:
        run_dir: the run directory.
        config: of training.
        record: the resolved config of the whole run, as plain values.
        images: images seen.
    Raises:
        RunError: a package is not installed.
    """
    loggers: list[Logger] = []
    if config.tensorboard:
        try:
            loggers.append(TensorBoard(run_dir, images))
        except ImportError:
            raise RunError(
                "training.tensorboard = true needs the package tensorboard; install it with "
                "pip install tensorboard, or set training.tensorboard=false"
            ) from None
    if config.wandb:
        loggers.append(WeightsAndBiases(run_dir, record))
    return loggers


class RunLog:
    """Writes rows of numbers to all loggers of a run. Only the main process writes.

    Args:
        run_dir: the run directory.
        config: of training.
        record: the resolved config of the whole run, as plain values.
    """

    def __init__(self, run_dir: Path, config: TrainingConfig, record: Mapping[str, Any]) -> None:
        self.last_losses = ""
        """Images per second and losses of the last row, for people."""
        self._run_dir, self._config, self._record = run_dir, config, record
        self._metrics: MetricsLog | None = None
        self._loggers: list[Logger] = []

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def _close(self) -> None:
        for logger in self._loggers:
            logger.close()

    def rewind(self, state: TrainingState) -> None:
        """Open the log at a state: later rows are taken back."""
        if not distributed.is_main():
            return
        self._close()
        self._metrics = MetricsLog(self._run_dir / "metrics.jsonl", state.rows)
        state.rows = self._metrics.rows
        others = open_loggers(self._run_dir, self._config, self._record, state.images)
        self._loggers = [self._metrics, *others]

    def write_losses(self, state: TrainingState, means: Mapping[str, float]) -> None:
        """Write the mean losses since the last row."""
        seconds = max(state.seconds - state.row_seconds, 1e-9)
        rate = (state.images - state.row_images) / seconds
        state.row_images, state.row_seconds = state.images, state.seconds
        self.write(state, {"images_per_second": round(rate, 2), **means})
        self.last_losses = f"{rate:,.0f} img/s  " + "  ".join(
            f"{name.removeprefix('loss/')} {value:.4g}"
            for name, value in means.items()
            if name.startswith("loss/")
        )

    def write(self, state: TrainingState, values: Mapping[str, float]) -> None:
        """Write a row."""
        row = {
            "images": state.images,
            "step": state.step,
            "seconds": round(state.seconds, 3),
            **values,
        }
        for logger in self._loggers:
            logger.write(row)
        state.rows += 1

    def sync(self) -> None:
        """Have metrics.jsonl on the disk."""
        if self._metrics is not None:
            self._metrics.sync()
