"""Trials before the first epoch, in the order they are worth knowing; the run stops at the first that fails."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from detkit.data.dataset import Dataset
from detkit.errors import RunError
from detkit.models.build import build
from detkit.train.batch_size import BatchChoice, largest_batch
from detkit.train.learner import Learner
from detkit.train.loader import Batch, EpochPlan, PhotoCache, batches
from detkit.train.memory import available_bytes, measure_step
from detkit.train.reports import TrialReport
from detkit.train.selftest import Trial, export_round_trip, loss_falls, rng_untouched
from detkit.train.settings import TrainSettings, with_network
from detkit.train.tasks import task_of
from detkit.weights import ModelCard

_TRIED = 8  # canvases to choose a batch size by


def trials(learner: Learner, batch: Batch, card: ModelCard, settings: TrainSettings) -> Iterator[TrialReport]:
    """Try what a run depends on, on copies: nothing that learns, and no random generator, is touched.

    Args:
        batch: the first of the run.
    Raises:
        RunError: a step does not fit into memory, the network cannot learn the batch, or it cannot be exported.
    """
    canvases, truths = torch.from_numpy(batch[0]), batch[1]
    if learner.device.type == "cpu":
        yield _memory(learner, batch, settings)
    fall = loss_falls(learner.model, canvases, truths, precision=settings.precision)
    yield TrialReport("loss on one batch", f"{fall.before:.3g} to {fall.after:.3g} in {fall.steps} steps")
    proof = export_round_trip(learner.averaged_model(), card)
    yield TrialReport("export", f"equal to {proof.box_px:.2g} px and {proof.score:.2g} in score")


def _memory(learner: Learner, batch: Batch, settings: TrainSettings) -> TrialReport:
    """Whether a step on the full batch fits into main memory."""
    canvases, truths = torch.from_numpy(batch[0][:2]), batch[1][:2]
    with rng_untouched():
        trial = Trial(learner.model, settings.precision, rate=0.0)
        measured = measure_step(
            trial.twin, lambda: torch.stack(list(trial.parts(canvases, truths).values())), len(truths)
        )
    step = measured.of(len(batch[1]))
    free = available_bytes()
    if free is not None and step > free:
        raise RunError(
            "a step does not fit into memory; try a smaller --batch (or --batch auto) or --size",
            found=f"{free / 2**30:.1f} GiB to spare",
            expected=f"about {step / 2**30:.1f} GiB",
        )
    spare = "" if free is None else f" of {free / 2**30:.1f} to spare"
    return TrialReport("memory", f"a step takes about {step / 2**30:.1f} GiB{spare}")


def choose_batch(train: Dataset, card: ModelCard, settings: TrainSettings) -> BatchChoice:
    """The batch size for `--batch auto`.

    Raises:
        RunError: not even two canvases fit into memory.
    """
    task = task_of(settings.task)
    model = build(card, with_network(settings, pretrained=False).network).to(memory_format=torch.channels_last)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    canvases = task.canvases(PhotoCache(train, 2 * settings.size_px, settings.cache_mb * 2**20), settings, card)
    order = task.order(canvases, train, settings, 0)[:_TRIED]
    plan = EpochPlan(settings.seed, 0, len(order), (settings.size_px,), closed=False, order=order)
    images, truths = next(batches(canvases, plan, workers=settings.workers))
    reserved = min(settings.cache_mb * 2**20, len(train) * 3 * settings.size_px**2)
    return largest_batch(
        model, torch.from_numpy(images), truths, precision=settings.precision, most=len(train), reserved_bytes=reserved
    )
