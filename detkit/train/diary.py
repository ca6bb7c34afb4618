"""What a run leaves behind for people and tools to read: a line per step, a line per epoch, pictures, TensorBoard."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from detkit.train.curves import write_curves
from detkit.train.distributed import Team
from detkit.train.loader import Batch
from detkit.train.reports import EpochReport, FinishReport, StepReport
from detkit.train.run_folder import Position, RunFolder


def environment(team: Team) -> dict[str, Any]:
    """What, beside the settings and the data, the last bits of a run depend on."""
    return {
        "detkit": _version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": team.size,
    }


def _version() -> str:
    try:
        return importlib.metadata.version("detkit-cv")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class Diary:
    """Writes steps.jsonl, metrics.jsonl, summary.json and the TensorBoard log of one run.

    Step lines are kept in memory until `save`, which goes with every saved state; `latest` is the last of them.

    Args:
        folder: of the run.
        step: steps done before (a resumed run).
        team: the processes that train together.
        tensorboard: write its log too.
    Raises:
        MissingExtraError: TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: RunFolder, step: int, team: Team, *, tensorboard: bool) -> None:
        self.folder = folder
        self.latest: dict[str, Any] = {}
        self._steps: list[dict[str, Any]] = []
        if step == 0:
            folder.write_text(folder.environment, json.dumps(environment(team), indent=2) + "\n")
        self._board = None
        if tensorboard:
            from detkit.train.tensorboard import TensorBoardLog

            self._board = TensorBoardLog(folder.path / "tensorboard", purge_step=step)

    def step(self, report: StepReport, more: dict[str, Any]) -> None:
        """Note a step and what shows whether it can be repeated exactly."""
        row = {"step": report.step, "epoch": report.epoch, "total": report.total_steps}
        self.latest = row | more | {"losses": report.losses}
        self._steps.append(self.latest)
        if self._board is not None:
            self._board.step(report)

    def epoch(self, report: EpochReport, position: Position, rate: float) -> None:
        """Write an epoch's line."""
        row = {
            "epoch": report.epoch,
            "step": position.step,
            "seconds": round(position.seconds, 1),
            "lr": rate,
            "loss": report.losses,
            "val": report.figures,
        }
        self.folder.append(self.folder.metrics, [row])
        if self._board is not None:
            self._board.epoch(row)

    def save(self) -> None:
        """Write the steps noted so far."""
        self.folder.append(self.folder.steps, self._steps)
        self._steps.clear()

    def finish(self, report: FinishReport, position: Position, training: dict[str, Any]) -> None:
        """Write summary.json and the curves."""
        summary = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(report).items()}
        summary |= {"epochs": position.epoch, "steps": position.step, "data": training}
        self.folder.write_text(self.folder.summary, json.dumps(summary, indent=2) + "\n")
        write_curves(self.folder.path)
        if self._board is not None:
            self._board.close()


def fingerprint(gathered: Sequence[Batch]) -> str:
    """A checksum of what the network was fed, in hexadecimal."""
    value = 0
    for canvases, truths in gathered:
        value = zlib.crc32(canvases.tobytes(), value)
        for truth in truths:
            value = zlib.crc32(truth.boxes_xyxy.tobytes(), value)
    return f"{value:08x}"
