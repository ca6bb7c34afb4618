"""A run's losses and figures as a TensorBoard log (extra `tensorboard`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detkit.errors import MissingExtraError, RunError
from detkit.train.reports import StepReport


class TensorBoardLog:
    """Writes steps and epochs as scalars over the optimiser's steps; look at them with `tensorboard --logdir runs`.

    Args:
        folder: for the event files; made where it is missing.
        purge_step: steps done before. What an earlier log in `folder` says of later ones is taken back, so that a
            resumed run shows every step once.
    Raises:
        MissingExtraError: TensorBoard is not installed.
        RunError: the log cannot be written.
    """

    def __init__(self, folder: Path, *, purge_step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            extra = 'pip install "detkit-cv[tensorboard]", or train with --set tensorboard=false'
            raise MissingExtraError(f"the TensorBoard log needs TensorBoard: {extra}") from error
        try:
            self._writer = SummaryWriter(str(folder), purge_step=purge_step + 1)
        except OSError as error:
            raise RunError("the TensorBoard log cannot be written", file=folder, found=error.strerror) from error

    def step(self, report: StepReport) -> None:
        """Note a step's loss parts, learning rate and speed."""
        values = {f"loss/{name}": value for name, value in report.losses.items()}
        values |= {"train/lr": report.rate, "train/images_per_s": report.images_per_s}
        self._note(values, report.step)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Note an epoch's line of metrics.jsonl at its last step; figures of -1 (undefined) are left out."""
        values = {f"epoch/{name}": value for name, value in row["loss"].items()}
        values |= {f"val/{name}": value for name, value in (row["val"] or {}).items() if value >= 0}
        self._note(values, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _note(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
