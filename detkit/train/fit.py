"""The training loop: a generator of small reports, one page long."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detkit.config import dump_toml
from detkit.data.dataset import Dataset, check_class_names
from detkit.engines.torch import TorchEngine
from detkit.errors import DataError, RunError
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET, CocoResult, evaluate
from detkit.infer.predictor import Predictor
from detkit.models.build import build
from detkit.models.checkpoint import load_state
from detkit.models.yolo import Yolo
from detkit.train.loader import EpochPlan, PhotoCache, batch_count, batches
from detkit.train.memory import keep_freed_blocks
from detkit.train.optim import (
    average_weights,
    build_optimizer,
    freeze_stem,
    learning_rate,
    set_learning_rate,
)
from detkit.train.plots import write_batch_sheet, write_val_sheet
from detkit.train.run_folder import Position, RunFolder
from detkit.train.settings import TrainSettings
from detkit.weights import ModelCard, read_card

_VALIDATION_BATCH = 16


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimiser step: its weighted loss parts, and canvases per second since the epoch began."""

    epoch: int
    batch: int
    batch_count: int
    losses: dict[str, float]
    images_per_s: float


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One epoch: mean losses, and the val figures (None in an epoch without validation)."""

    epoch: int
    losses: dict[str, float]
    result: CocoResult | None
    is_best: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class FinishReport:
    """The end of a run, complete or interrupted; `best` is the AP of best.onnx on the val split (-1: never looked)."""

    run: Path
    complete: bool
    best: float
    best_epoch: int
    seconds: float


Report = StepReport | EpochReport | FinishReport


class Fit:
    """One training run: the network, its averaged twin, the optimiser and where they stand.

    Args:
        folder: where the run is kept.
        train, val: the two splits.
        card: the model's card, with anchors.
        settings: resolved (see `settings.resolve`); the heads of `start` are taken for equal classes.
    Raises:
        WeightsError: `settings.start` does not fit.
    """

    def __init__(
        self,
        folder: RunFolder,
        train: Dataset,
        val: Dataset,
        settings: TrainSettings,
        card: ModelCard,
    ) -> None:
        check_class_names(card.class_names, val)
        keep_freed_blocks()
        torch.manual_seed(settings.seed)
        self.folder, self.train, self.val, self.settings, self.card = folder, train, val, settings, card
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: Yolo = build(card, settings.model)
        if settings.start is not None:
            same_classes = read_card(settings.start).class_names == card.class_names
            load_state(model, settings.start, prefix_dropped=None if same_classes else "heads.")
        from_pretrained = settings.start is not None or bool(settings.model.pretrained)
        self.stem_frozen = from_pretrained and settings.optim.freeze == "stem"
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        if self.stem_frozen:
            freeze_stem(self.model.backbone)
        factor = settings.optim.backbone_lr if from_pretrained else 1.0
        self.optimizer = build_optimizer(self.model, settings.optim, self.model.backbone, factor)
        self.averaged = average_weights(self.model, settings.optim)
        self.position = Position()
        self.photos = PhotoCache(train, round(1.5 * settings.size_px), settings.cache_mb * 2**20)

    def begin(self) -> None:
        """Make the run folder and write the settings."""
        self.folder.create()
        self.folder.write_text(self.folder.config, dump_toml(self.settings))

    def resume(self) -> None:
        """Go back to where last.safetensors stands.

        Raises:
            WeightsError: it cannot be used.
        """
        self.position = self.folder.load_last(self.model, self.averaged, self.optimizer)
        self.folder.drop_metrics_after(self.position.epoch)

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Report]:
        """Train to the last epoch; a report per step and per epoch, and one at the end.

        Args:
            should_stop: asked after each step; True saves everything and ends the run early.
        Raises:
            RunError: the loss is no longer a finite number.
        """
        started = time.monotonic() - self.position.seconds
        while self.position.epoch < self.settings.epochs:
            losses: dict[str, float] = {}
            for done, step in enumerate(self._epoch()):
                before = losses or dict.fromkeys(step.losses, 0.0)
                losses = {name: (before[name] * done + value) / (done + 1) for name, value in step.losses.items()}
                yield step
                if should_stop():
                    self.position = replace(self.position, seconds=time.monotonic() - started)
                    self._save_interrupted()
                    yield self._finish(complete=False)
                    return
            elapsed = time.monotonic() - started
            self.position = replace(self.position, epoch=self.position.epoch + 1, batch=0, seconds=elapsed)
            report = self._end_epoch(losses)
            self._save_last()
            yield report
        yield self._finish(complete=True)

    def _epoch(self) -> Iterator[StepReport]:
        """The steps of the current epoch, from the current batch on."""
        settings, epoch = self.settings, self.position.epoch
        open_share = 1 - settings.augment.close_mosaic
        mosaic = settings.augment.mosaic if epoch < settings.epochs * open_share else 0.0
        plan = EpochPlan(settings.seed, epoch, settings.batch_size, settings.size_px, mosaic, start=self.position.batch)
        count = batch_count(len(self.train), settings.batch_size)
        self.model.train()
        if self.stem_frozen:
            self.model.backbone.stages[0].eval()
        started, images = time.monotonic(), 0
        for canvases, truths in batches(self.photos, plan, settings.augment, workers=settings.workers):
            if self.position.step == 0:
                write_batch_sheet(self.folder.plots / "first_batch.png", canvases, truths, self.card.class_names)
            losses = self._step(torch.from_numpy(canvases).to(self.device), truths, count)
            images += len(truths)
            self.position = replace(self.position, batch=self.position.batch + 1, step=self.position.step + 1)
            speed = images / (time.monotonic() - started)
            yield StepReport(epoch, self.position.batch, count, losses, speed)

    def _step(self, canvases: torch.Tensor, truths: list[Any], steps_per_epoch: int) -> dict[str, float]:
        """One step of the optimiser and of the moving average; the loss parts."""
        optim = self.settings.optim
        rate = learning_rate(self.position.step, self.settings.epochs * steps_per_epoch, optim)
        set_learning_rate(self.optimizer, rate)
        bf16 = self.settings.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            raw = self.model(canvases)
        parts = self.model.loss(raw, truths)
        losses = {name: part.item() for name, part in parts.items()}
        if not all(map(math.isfinite, losses.values())):
            where = f"epoch {self.position.epoch + 1}, batch {self.position.batch + 1}"
            raise RunError(f"the loss is not finite at {where}; try a lower --set optim.lr", found=losses)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip_norm)
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        return losses

    def _end_epoch(self, losses: dict[str, float]) -> EpochReport:
        """Look at the val split, keep the weights if they are the best so far, and write the epoch's line."""
        epoch = self.position.epoch
        last = epoch == self.settings.epochs
        looked = last or epoch % self.settings.val_every == 0
        result = self.validate() if looked else None
        is_best = result is not None and result.AP > self.position.best
        if result is not None and is_best:
            self.position = replace(self.position, best=result.AP, best_epoch=epoch)
            self.folder.save_best(self._averaged_model(), self._card(result))
        row = {"epoch": epoch, "step": self.position.step, "seconds": round(self.position.seconds, 1), "loss": losses}
        self.folder.append_metrics(row | {"val": None if result is None else result.figures()})
        return EpochReport(epoch, losses, result, is_best, self.position.seconds)

    def validate(self) -> CocoResult:
        """COCO's figures of the averaged weights on the val split."""
        predictor = Predictor(self._engine(), conf=CONF_FLOOR, max_det=MAX_DET)
        paths = [sample.image_path for sample in self.val]
        return evaluate(self.val, list(predictor.predict_files(paths, batch=_VALIDATION_BATCH)))

    def _engine(self) -> TorchEngine:
        return TorchEngine(self._averaged_model(), self.card, bf16=self.settings.precision == "bf16")

    def _averaged_model(self) -> Yolo:
        model = self.averaged.module
        assert isinstance(model, Yolo)
        return model.eval()

    def _card(self, result: CocoResult | None) -> ModelCard:
        done: dict[str, Any] = {"epochs_done": self.position.epoch, "minutes": round(self.position.seconds / 60, 1)}
        if result is not None:
            done |= {"val": self.val.name, "val_images": len(self.val), "metrics": result.figures()}
        return replace(self.card, training=self.card.training | done)

    def _save_last(self) -> None:
        self.folder.save_last(self.model, self.averaged, self.optimizer, self._card(None), self.position)

    def _save_interrupted(self) -> None:
        """Keep the exact place; a run stopped before its first validation gets a best model all the same."""
        self._save_last()
        if self.position.best_epoch < 0:
            self.folder.save_best(self._averaged_model(), self._card(None))

    def _finish(self, *, complete: bool) -> FinishReport:
        at = self.position
        sheet = self.folder.plots / "val.png"
        write_val_sheet(sheet, self.val, Predictor(self._engine()), self.settings.size_px)
        report = FinishReport(self.folder.path, complete, at.best, at.best_epoch, at.seconds)
        summary = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(report).items()}
        summary |= {"epochs": at.epoch, "data": self.card.training, "device": self.device.type}
        self.folder.write_text(self.folder.summary, json.dumps(summary, indent=2) + "\n")
        return report


def check_same_data(card: ModelCard, train: Dataset) -> None:
    """Refuse to resume on labels that changed since the run began (DataError)."""
    before, now = card.training.get("data_sha256"), train.content_hash()
    if before != now:
        raise DataError(
            "the labels changed since this run began, so resuming would not continue it; start a new run",
            file=train.source,
            found=f"content hash {now[:12]}",
            expected=str(before)[:12],
        )
