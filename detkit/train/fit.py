"""The training loop: a generator of small reports, one page long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkit.allocator import keep_freed_blocks
from detkit.config import dump_toml
from detkit.data.dataset import Dataset, check_class_names
from detkit.detections import Detections
from detkit.engines.torch import TorchEngine
from detkit.errors import RunError
from detkit.models.build import build
from detkit.models.checkpoint import load_state
from detkit.opencv import load_cv2
from detkit.train.diagnose import data_facts, diagnose_flat
from detkit.train.diary import Diary, fingerprint
from detkit.train.distributed import ALONE, Team
from detkit.train.learner import Learner
from detkit.train.loader import Batch, EpochPlan, PhotoCache, batch_count, batches
from detkit.train.optim import learning_rate
from detkit.train.plots import SHEET_PHOTOS, write_batch_sheet, write_val_sheet
from detkit.train.reports import EpochReport, Figures, FinishReport, Report, StepReport
from detkit.train.run_folder import Position, RunFolder
from detkit.train.schedule import Clock
from detkit.train.settings import TrainSettings
from detkit.train.tasks import better, task_of
from detkit.train.trials import trials
from detkit.weights import ModelCard, read_card

_SEEDS_APART = 1_000_003  # so that no step of one seed draws what a step of the next does


class Fit:
    """One training run: what learns, what it is fed, and where it stands.

    Args:
        folder: where the run is kept.
        train, val: the two splits.
        card: the model's card, with anchors.
        settings: resolved (see `settings.resolve`); the layers of `start` that know its classes or points are taken
            for the same ones only.
        team: the processes that train together.
    Raises:
        WeightsError: `settings.start` does not fit.
        UsageError: the batch cannot be shared out.
    """

    def __init__(
        self,
        folder: RunFolder,
        train: Dataset,
        val: Dataset,
        settings: TrainSettings,
        card: ModelCard,
        team: Team = ALONE,
    ) -> None:
        check_class_names(card.class_names, val)
        keep_freed_blocks()
        load_cv2().setNumThreads(1)  # the loader has threads of its own, the network the rest
        torch.manual_seed(settings.seed)
        self.folder, self.train, self.val = folder, train, val
        self.settings, self.card, self.team = settings, card, team
        self.task = task_of(settings.task)
        model = build(card, settings.network)
        if settings.start is not None:
            start = read_card(settings.start)
            same = (start.class_names, start.point_names) == (card.class_names, card.point_names)
            load_state(model, settings.start, left_out=() if same else model.class_layers)
        from_pretrained = settings.start is not None or bool(settings.network.pretrained)
        self.learner = Learner(model, settings, team, from_pretrained=from_pretrained)
        side_px = max(max(settings.sides_px(progress)) for progress in (0.0, 1.0))
        photos = PhotoCache(train, round(1.5 * side_px), settings.cache_mb * 2**20 // team.size)
        self.canvases = self.task.canvases(photos, settings, card)
        self.position = Position()
        epoch_steps = self._steps_of(len(self._plan(0).order))
        self.clock = Clock(60 * settings.time_min or None, epoch_steps, settings.epochs * epoch_steps)
        self.diary: Diary | None = None

    def begin(self) -> None:
        """Make the run folder and write the settings."""
        if self.team.leads:
            self.folder.create()
            self.folder.write_text(self.folder.config, dump_toml(self.settings))

    def resume(self) -> None:
        """Go back to where last.safetensors stands.

        Raises:
            WeightsError: it cannot be used.
        """
        self.position = self.folder.load_last(self.learner)
        self.clock.total_steps = self.position.total_steps or self.clock.total_steps
        if self.team.leads:
            self.folder.forget_after(self.position)

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Generator[Report, None, None]:
        """Train to the last step; a report per trial, step and epoch, and one at the end.

        Args:
            should_stop: asked after each step; True saves everything and ends the run early.
        Raises:
            RunError: the loss is no longer a finite number; the batch is saved in the run folder.
            MissingExtraError: TensorBoard is wanted and not installed.
        """
        if self.team.leads:
            self.diary = Diary(self.folder, self.position.step, self.team, tensorboard=self.settings.tensorboard)
        self.clock.start(self.position.seconds)
        if self.position.step == 0:
            yield from self._begin_with_trials()
        while not self._complete():
            losses = self._losses_noted()
            with closing(self._epoch()) as steps:
                for step in steps:
                    losses.append(step.losses)
                    yield step
                    if self.team.any(should_stop()):
                        self._save_interrupted()
                        yield self._finish(complete=False)
                        return
            names = losses[0] if losses else ()
            yield self._end_epoch({name: float(np.mean([part[name] for part in losses])) for name in names})
        yield self._finish(complete=True)

    def _losses_noted(self) -> list[dict[str, float]]:
        """The losses of the steps that an interrupted epoch did before; it may have stopped after its last one."""
        if self.position.batch == 0:
            return []
        return [r["losses"] for r in self.folder.rows(self.folder.steps) if r["epoch"] == self.position.epoch]

    def _begin_with_trials(self) -> Iterator[Report]:
        """Show the first batch and try the network on it."""
        if self.team.leads:
            batch = self.show_first_batch(self.folder.plots / "first_batch.png")
            if self.settings.self_test:
                yield from trials(self.learner, batch, self.card, self.settings)

    def show_first_batch(self, path: Path) -> Batch:
        """Draw the first batch of the run, with the anchors that answer for its boxes; gives the batch."""
        with closing(batches(self.canvases, self._plan(0), workers=self.settings.workers)) as feed:
            batch = next(feed)
        anchors = self.task.answering(self.learner.averaged_model(), batch)
        write_batch_sheet(path, *batch, self.card.class_names, anchors)
        return batch

    def _complete(self) -> bool:
        at, settings = self.position, self.settings
        if settings.patience and at.looks >= settings.patience:
            return True
        return at.step >= self.clock.total_steps if self.clock.budget_s else at.epoch >= settings.epochs

    def _plan(self, epoch: int) -> EpochPlan:
        """What the epoch feeds the network, from the current batch on."""
        settings, team = self.settings, self.team
        progress = self.position.progress
        return EpochPlan(
            settings.seed,
            epoch,
            settings.batch_size,
            settings.sides_px(progress),
            progress >= 1 - settings.augment.close_mosaic,
            self.task.order(self.canvases, self.train, settings, epoch),
            self.position.batch,
            team.rank,
            team.size,
        )

    def _steps_of(self, position_count: int) -> int:
        return math.ceil(batch_count(position_count, self.settings.batch_size) / self.settings.optim.accumulate)

    def _epoch(self) -> Generator[StepReport, None, None]:
        """The steps of the current epoch, from the current batch on."""
        settings, at = self.settings, self.position
        run, team = self.folder.path, self.team
        self.task.before_epoch(self.canvases, self._agreed_engine, at.progress, run, team, begun=at.batch > 0)
        plan = self._plan(at.epoch)
        count = batch_count(len(plan.order), settings.batch_size)
        self.learner.train_mode()
        started = saved = time.monotonic()
        images = 0
        with closing(batches(self.canvases, plan, workers=settings.workers)) as feed:
            while self.position.batch < count and not (self.clock.budget_s and self._complete()):
                gathered = list(islice(feed, min(settings.optim.accumulate, count - self.position.batch)))
                images += sum(len(truths) for _, truths in gathered) * self.team.size
                report = self._step(gathered, images, started)
                self.clock.tick(self.position.step)
                if self.clock.budget_s:
                    self.clock.total_steps = self.team.from_leader(self.clock.total_steps)
                yield report
                if time.monotonic() - saved > 60 * settings.save_every_min:
                    self._save_last()
                    saved = time.monotonic()

    def _step(self, gathered: list[Batch], images: int, started: float) -> StepReport:
        """One step of the optimiser and of the moving average; `images` canvases were fed since `started`."""
        at, share = self.position, 1 / len(gathered)
        part = at.step * self.team.size + self.team.rank  # dropout draws the same after a resume
        torch.manual_seed(self.settings.seed + _SEEDS_APART * (part + 1))
        rate = learning_rate(at.step, self.clock.total_steps, self.settings.optim)
        losses: dict[str, float] = {}
        for number, (canvases, truths) in enumerate(gathered):
            last = number == len(gathered) - 1
            found = self.learner.gather(torch.from_numpy(canvases), truths, share=share, last=last)
            self._refuse_non_finite(found, gathered[number])
            losses = {name: losses.get(name, 0.0) + value * share for name, value in found.items()}
        norm = self.learner.step(rate)
        self._refuse_non_finite({"gradient norm": 0.0 if self.learner.scaler.is_enabled() else norm}, gathered[-1])
        self.position = replace(at, batch=at.batch + len(gathered), step=at.step + 1)
        speed = images / (time.monotonic() - started)
        report = StepReport(at.epoch, at.step + 1, self.clock.total_steps, self.team.mean(losses), rate, speed)
        if self.diary is not None:
            self.diary.step(report, {"batch": self.position.batch, "fed": fingerprint(gathered), "norm": norm})
        return report

    def _refuse_non_finite(self, values: dict[str, float], batch: Batch) -> None:
        """RunError where a loss or the gradient is no number any more; the batch is saved for a look."""
        if all(map(math.isfinite, values.values())):
            return
        saved = self.folder.save_batch(batch, self.card.class_names)
        where = f"epoch {self.position.epoch + 1}, batch {self.position.batch + 1}"
        raise RunError(
            f"the loss is not finite at {where}; try a lower --set optim.lr; the batch is in {saved}", found=values
        )

    def _end_epoch(self, losses: dict[str, float]) -> EpochReport:
        """Look at the val split, keep the weights if they are the best so far, and write the epoch's line."""
        started, at, settings = time.monotonic(), self.position, self.settings
        rate = learning_rate(at.step, self.clock.total_steps, settings.optim)
        self.position = replace(at, epoch=at.epoch + 1, batch=0, seconds=self.clock.spent_s)
        progress = at.step / self.clock.total_steps if self.clock.budget_s else self.position.epoch / settings.epochs
        self.position = replace(self.position, progress=progress, total_steps=self.clock.total_steps)
        look = self._complete() or self.position.epoch % settings.val_every == 0
        figures, predictions = self.validate() if look else (None, [])
        is_best = figures is not None and better(self.task, figures, self.position.best)
        if figures is not None:
            self._judge(figures, predictions, is_best=is_best)
        epochs = settings.epochs
        if self.clock.budget_s:
            epochs = max(self.position.epoch, round(self.clock.total_steps / self.clock.epoch_steps))
        seconds, diagnosis = self.position.seconds, self._diagnosis(figures, losses)
        report = EpochReport(self.position.epoch, epochs, losses, figures, is_best, seconds, diagnosis)
        if self.diary is not None:
            self.diary.epoch(report, self.position, rate)
        self._save_last()
        if look:
            self.clock.look_took(time.monotonic() - started)
        return report

    def _diagnosis(self, figures: Figures | None, losses: dict[str, float]) -> str | None:
        """What seems to be wrong where AP stays 0."""
        if figures is None or self.diary is None or self.task.figure != "AP":
            return None
        rows = [*self.folder.rows(self.folder.metrics), {"loss": losses, "val": figures}]
        history = [row["val"]["AP"] for row in rows if row["val"]]
        facts, warmup = data_facts(self.train, self.val, self.settings.size_px), self.settings.optim.warmup_steps
        losses_of = [row["loss"] for row in rows]
        return diagnose_flat(history, losses_of, facts, steps=self.position.step, warmup_steps=warmup)

    def _judge(self, figures: Figures, predictions: list[Detections], *, is_best: bool) -> None:
        """Keep the weights if they are the best so far, else count the look."""
        if not is_best:
            self.position = replace(self.position, looks=self.position.looks + 1)
            return
        best = figures[self.task.figure]
        self.position = replace(self.position, best=best, best_epoch=self.position.epoch, looks=0)
        if self.team.leads:
            intervals = self.task.intervals(self.val, predictions)
            self.folder.save_best(self.learner.averaged_model(), self._card(figures, intervals))

    def validate(self) -> tuple[Figures, list[Detections]]:
        """Figures of the averaged weights on the val split, and what they found; each process looks at its part."""
        engine = self._agreed_engine()
        part = [self.val.samples[i] for i in self.team.share_out(len(self.val))]
        predictions = self.team.gathered(self.task.predict(engine, part), len(self.val))
        figures = self.task.figures(self.val, predictions) if self.team.leads else {}
        return self.team.from_leader(figures), predictions

    def _agreed_engine(self) -> TorchEngine:
        """The same averaged weights in every process."""
        self.learner.agree()
        return self._engine()

    def _engine(self) -> TorchEngine:
        return TorchEngine(self.learner.averaged_model(), self.card, bf16=self.settings.precision == "bf16")

    def _card(self, figures: Figures | None, intervals: dict[str, Any] | None = None) -> ModelCard:
        done: dict[str, Any] = {"epochs_done": self.position.epoch, "minutes": round(self.position.seconds / 60, 1)}
        if figures is not None:
            done |= {"val": self.val.name, "val_images": len(self.val), "metrics": figures, "intervals": intervals}
        return replace(self.card, training=self.card.training | done)

    def _save_last(self) -> None:
        if self.diary is not None:
            self.diary.save()
            now = replace(self.position, seconds=self.clock.spent_s, total_steps=self.clock.total_steps)
            self.folder.save_last(self.learner, self._card(None), now, self.settings.keep_last)

    def _save_interrupted(self) -> None:
        """Keep the exact place; a run stopped before its first validation gets a best model all the same."""
        self._save_last()
        if self.position.best_epoch < 0 and self.team.leads:
            self.folder.save_best(self.learner.averaged_model(), self._card(None))

    def _finish(self, *, complete: bool) -> FinishReport:
        at, settings = self.position, self.settings
        early = complete and bool(settings.patience) and at.looks >= settings.patience
        report = FinishReport(
            self.folder.path, complete, early, self.task.figure, at.best, at.best_epoch, self.clock.spent_s
        )
        if self.diary is not None:
            samples = self.val.samples[:SHEET_PHOTOS]
            found = self.task.show(self._engine(), samples)
            write_val_sheet(self.folder.plots / "val.png", samples, found, self.card, settings.size_px)
            self.diary.finish(report, at, self.card.training)
        return report
