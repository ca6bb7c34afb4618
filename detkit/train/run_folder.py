"""The run folder: settings, best and last weights, metrics; safe to kill at any moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detkit.errors import RunError, UsageError, WeightsError
from detkit.export import export_onnx
from detkit.files import replacing
from detkit.model_header import read_header_text
from detkit.models.checkpoint import TRAINING_PREFIX, load_tensors, save_model, save_tensors
from detkit.models.network import Network
from detkit.train.learner import Learner
from detkit.train.loader import Batch
from detkit.train.plots import write_batch_sheet
from detkit.weights import CARD_KEY, ModelCard

_STATE_KEY = "detkit.train"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands.

    epoch, batch: so many epochs are done, and so many batches of the next. step: optimiser steps done, of
    total_steps as last planned. best: the deciding figure of best.onnx (None: never looked), found at best_epoch.
    looks: looks at the val split since then. progress: share of the run done when this epoch began.
    seconds: training time so far. scaler: fp16's loss scale.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    total_steps: int = 0
    best: float | None = None
    best_epoch: int = -1
    looks: int = 0
    progress: float = 0.0
    seconds: float = 0.0
    scaler: dict[str, float] = field(default_factory=dict)


class RunFolder:
    """Names and writes the files of `runs/NAME/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.metrics, self.summary = path / "config.toml", path / "metrics.jsonl", path / "summary.json"
        self.best, self.best_onnx, self.last = path / "best.safetensors", path / "best.onnx", path / "last.safetensors"
        self.plots, self.steps, self.checkpoints = path / "plots", path / "steps.jsonl", path / "checkpoints"
        self.environment = path / "environment.json"
        self.resumed_from = self.last

    @classmethod
    def of_checkpoint(cls, path: Path) -> RunFolder:
        """The folder of a run that is to go on from one of the files in its checkpoints/."""
        folder = cls(path.parent.parent)
        folder.resumed_from = path
        return folder

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

    def append(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add lines of JSON to metrics.jsonl or steps.jsonl."""
        try:
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        except OSError as error:
            raise RunError("cannot be written", file=path, found=error.strerror) from error

    def rows(self, path: Path) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl or steps.jsonl; what follows one cut short by a crash is left out."""
        rows = []
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not isinstance(row, dict) or not {"epoch", "step"} <= row.keys():
                break
            rows.append(row)
        return rows

    def forget_after(self, position: Position) -> None:
        """Take back the lines of epochs and steps that will be done again: the run was killed before it saved them."""
        for path, key, last in ((self.metrics, "epoch", position.epoch), (self.steps, "step", position.step)):
            if path.exists():
                kept = [json.dumps(row) + "\n" for row in self.rows(path) if row[key] <= last]
                self.write_text(path, "".join(kept))

    def save_batch(self, batch: Batch, class_names: Sequence[str]) -> Path:
        """Keep a batch that broke the training, as arrays (bad_batch.npz) and as a picture; gives the former."""
        canvases, truths = batch
        path = self.path / "bad_batch.npz"
        columns = {f"{name}_{i}": getattr(t, name) for i, t in enumerate(truths) for name in ("boxes_xyxy", "labels")}
        with replacing(path) as partial:
            np.savez_compressed(partial, canvases=canvases, **columns)
        write_batch_sheet(self.plots / "bad_batch.png", canvases, truths, class_names)
        return path

    def save_best(self, model: Network, card: ModelCard) -> None:
        """Write best.onnx (proven equal) and best.safetensors."""
        export_onnx(model, card, self.best_onnx)
        save_model(self.best, model, card)

    def save_last(self, learner: Learner, card: ModelCard, position: Position, keep: int) -> None:
        """Write last.safetensors: the averaged weights as an ordinary model, and what training needs to go on.

        Args:
            keep: how many saved states stay: last.safetensors, and earlier ones in checkpoints/.
        """
        tensors: dict[str, Tensor] = dict(learner.averaged.module.state_dict())
        tensors |= {f"{TRAINING_PREFIX}model.{name}": t for name, t in learner.model.state_dict().items()}
        tensors[f"{TRAINING_PREFIX}averaged"] = learner.averaged.n_averaged
        for index, state in learner.optimizer.state_dict()["state"].items():
            tensors |= {f"{TRAINING_PREFIX}optim.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        if keep > 1 and self.last.exists():
            self._set_aside(keep - 1)
        place = asdict(replace(position, scaler=learner.scaler.state_dict()))
        save_tensors(self.last, tensors, {CARD_KEY: card.to_json(), _STATE_KEY: json.dumps(place)})

    def _set_aside(self, keep: int) -> None:
        """Copy last.safetensors to checkpoints/, named by its step, where the newest `keep` stay."""
        step = json.loads(read_header_text(self.last, _STATE_KEY) or "{}").get("step", 0)
        self.checkpoints.mkdir(exist_ok=True)
        with replacing(self.checkpoints / f"step-{step:07}.safetensors") as partial:
            shutil.copyfile(self.last, partial)
        for old in sorted(self.checkpoints.glob("step-*.safetensors"))[:-keep]:
            old.unlink()

    def load_last(self, learner: Learner) -> Position:
        """Put everything back as `save_last` found it.

        Raises:
            WeightsError: last.safetensors is missing, broken or not of this run's settings.
        """
        tensors, metadata = load_tensors(self.resumed_from)
        try:
            position = Position(**json.loads(metadata[_STATE_KEY]))
            training = {n.removeprefix(TRAINING_PREFIX): t for n, t in tensors.items() if n.startswith(TRAINING_PREFIX)}
            averaged = {n: t for n, t in tensors.items() if not n.startswith(TRAINING_PREFIX)}
            learner.averaged.module.load_state_dict(averaged)
            model = {n.removeprefix("model."): t for n, t in training.items() if n.startswith("model.")}
            learner.model.load_state_dict(model)
            learner.averaged.n_averaged.copy_(training["averaged"])
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in training.items():
                if name.startswith("optim."):
                    _, index, key = name.split(".")
                    state.setdefault(int(index), {})[key] = tensor
            groups = learner.optimizer.state_dict()["param_groups"]
            learner.optimizer.load_state_dict({"state": state, "param_groups": groups})
            if position.scaler:
                learner.scaler.load_state_dict(position.scaler)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"cannot be resumed from: {error}", file=self.resumed_from) from error
        return position


def free_name(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, ... that is not taken."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
