"""The run folder: settings, best and last weights, metrics; safe to kill at any moment."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from detkit.errors import RunError, UsageError, WeightsError
from detkit.export import export_onnx
from detkit.files import replacing
from detkit.models.checkpoint import TRAINING_PREFIX, load_tensors, save_model, save_tensors
from detkit.models.yolo import Yolo
from detkit.weights import CARD_KEY, ModelCard

_STATE_KEY = "detkit.train"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands: `batch` batches of epoch `epoch` are done; `best` is the best AP so far, at `best_epoch`."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0


class RunFolder:
    """Names and writes the files of `runs/NAME/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.metrics, self.summary = path / "config.toml", path / "metrics.jsonl", path / "summary.json"
        self.best, self.best_onnx, self.last = path / "best.safetensors", path / "best.onnx", path / "last.safetensors"
        self.plots = path / "plots"

    def create(self) -> None:
        """Make the folder; UsageError when a run is there already."""
        if self.config.exists():
            raise UsageError(f"{self.path} holds a run already: go on with --resume {self.path}, or give another --run")
        try:
            self.plots.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError("the run folder cannot be made", file=self.path, found=error.strerror) from error

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file whole or not at all."""
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one epoch's line to metrics.jsonl."""
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise RunError("cannot be written", file=self.metrics, found=error.strerror) from error

    def drop_metrics_after(self, epoch: int) -> None:
        """Take back the lines of epochs that will be done again: the run was killed before it had saved them."""
        if self.metrics.exists():
            rows = [line for line in self.metrics.read_text("utf-8").splitlines() if json.loads(line)["epoch"] <= epoch]
            self.write_text(self.metrics, "".join(f"{row}\n" for row in rows))

    def save_best(self, model: Yolo, card: ModelCard) -> None:
        """Write best.onnx (proven equal) and best.safetensors."""
        export_onnx(model, card, self.best_onnx)
        save_model(self.best, model, card)

    def save_last(
        self,
        model: Yolo,
        averaged: AveragedModel,
        optimizer: torch.optim.Optimizer,
        card: ModelCard,
        position: Position,
    ) -> None:
        """Write last.safetensors: the averaged weights as an ordinary model, and what training needs to go on."""
        tensors: dict[str, Tensor] = dict(averaged.module.state_dict())
        tensors |= {f"{TRAINING_PREFIX}model.{name}": t for name, t in model.state_dict().items()}
        tensors[f"{TRAINING_PREFIX}averaged"] = averaged.n_averaged
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{TRAINING_PREFIX}optim.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        save_tensors(self.last, tensors, {CARD_KEY: card.to_json(), _STATE_KEY: json.dumps(asdict(position))})

    def load_last(self, model: Yolo, averaged: AveragedModel, optimizer: torch.optim.Optimizer) -> Position:
        """Put everything back as `save_last` found it.

        Raises:
            WeightsError: last.safetensors is missing, broken or not of this run's settings.
        """
        tensors, metadata = load_tensors(self.last)
        try:
            position = Position(**json.loads(metadata[_STATE_KEY]))
            training = {n.removeprefix(TRAINING_PREFIX): t for n, t in tensors.items() if n.startswith(TRAINING_PREFIX)}
            averaged.module.load_state_dict({n: t for n, t in tensors.items() if not n.startswith(TRAINING_PREFIX)})
            model.load_state_dict({n.removeprefix("model."): t for n, t in training.items() if n.startswith("model.")})
            averaged.n_averaged.copy_(training["averaged"])
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in training.items():
                if name.startswith("optim."):
                    _, index, key = name.split(".")
                    state.setdefault(int(index), {})[key] = tensor
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"cannot be resumed from: {error}", file=self.last) from error
        return position


def free_name(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, ... that is not taken."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
